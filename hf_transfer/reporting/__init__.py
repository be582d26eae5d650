"""What a run writes: the report, the model card, the page, the output folder; results to experiment trackers."""
