"""Label targets: one label, several labels or a number for each example."""
