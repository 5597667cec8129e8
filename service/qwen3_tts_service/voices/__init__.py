"""Voices that are kept: taken once from a recording, spoken with by name, there again after a restart."""
