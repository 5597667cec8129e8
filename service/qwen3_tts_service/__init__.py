"""Text-to-speech server for Qwen3-TTS: HTTP in, 24 kHz speech out."""

__version__ = "0.1.0"
