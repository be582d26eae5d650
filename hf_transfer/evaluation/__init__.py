"""Metrics, their uncertainty, and decisions fitted on the validation split."""
