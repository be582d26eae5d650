"""What comes out of a model: labels, or a number. A task ties one of them to what goes in."""
