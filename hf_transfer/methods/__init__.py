"""The four methods (full, lora, frozen, scratch): which weights of a model are trained."""
