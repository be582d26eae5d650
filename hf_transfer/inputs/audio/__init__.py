"""Audio as input: clips of files, decoded once, augmented, cut into chunks."""
