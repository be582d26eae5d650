"""What a model is given: texts, audio."""
