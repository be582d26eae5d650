"""The one training loop: `transformers.Trainer` with exact batches."""
