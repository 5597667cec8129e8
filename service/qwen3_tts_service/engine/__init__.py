"""Text to frames of 16 codes, and for now to the waveform, on the chosen device."""
