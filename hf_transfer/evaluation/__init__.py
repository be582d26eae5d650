"""Metrics, their confidence intervals, and comparisons of groups, runs and training sizes."""
