"""Packaged data for demonstrations and tests."""
