"""Waveform to bytes."""
