"""What a run leaves: report, model card, output folder."""
