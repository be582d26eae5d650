"""Targets: what a model learns to predict. A task combines a target with an input."""
