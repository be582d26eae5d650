"""Texts, and pairs of texts, as inputs."""
