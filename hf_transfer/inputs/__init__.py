"""Inputs of models: texts, audio."""
