"""Activations of the layers that a method leaves frozen, computed once and read from disk."""
