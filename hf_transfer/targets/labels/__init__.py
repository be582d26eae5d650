"""Labels as target: one of several classes, any number of them, or a number."""
