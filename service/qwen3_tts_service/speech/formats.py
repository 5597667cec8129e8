"""The audio formats that a request may ask for."""

from __future__ import annotations

from ..errors import UnsupportedFormat, shown

#: Format name -> content type. ``pcm`` is 24 kHz, mono, signed 16-bit little endian, without a header.
CONTENT_TYPES = {"wav": "audio/wav", "pcm": "audio/pcm"}


def check(name: str) -> str:
    """Return ``name`` when it is a format of this server, else raise UnsupportedFormat."""
    if name not in CONTENT_TYPES:
        raise UnsupportedFormat(
            f"`response_format` is {shown(name)}: choose from {', '.join(CONTENT_TYPES)}",
            param="response_format",
        )
    return name
