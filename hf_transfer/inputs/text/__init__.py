"""Texts, and pairs of them, as input."""
