"""Training: a subclass of `transformers.Trainer`, checkpoints, interruption, cost, precomputed activations."""
