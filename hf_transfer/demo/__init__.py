"""Packaged data, for showing and testing."""
