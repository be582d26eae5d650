"""Audio as input: clips are read, decoded, cached, augmented, and long ones split into chunks."""
