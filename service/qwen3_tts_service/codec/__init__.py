"""The codec: from code frames to sound, streaming and exact."""
