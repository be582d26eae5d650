"""Activations of the frozen layers of a model: computed once, kept on disk, and used in place of the inputs."""
