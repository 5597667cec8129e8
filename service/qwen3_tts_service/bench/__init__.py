"""Measurements: what this host does with a checkpoint, beside upstream's own code and the geometry's floor."""
