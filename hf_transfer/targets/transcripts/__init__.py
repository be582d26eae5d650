"""Transcripts as target: the words that are spoken in a clip."""
