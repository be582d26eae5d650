"""Transcripts as target: what was said in a clip."""
