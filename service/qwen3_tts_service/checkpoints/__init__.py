"""Checkpoints on disk: fetch, load, and write synthetic ones."""
