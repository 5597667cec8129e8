"""What a client wants to receive: format, speed, and how it is sent."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InvalidValue, UnsupportedFormat, shown

#: Format name -> content type. ``pcm`` is 24 kHz, mono, signed 16-bit little endian, without a header.
CONTENT_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
SLOWEST, FASTEST = 0.25, 4.0


@dataclass(frozen=True)
class Output:
    """How speech leaves.

    ``speed`` is that of playing it, at the same pitch. ``marked`` says in the metadata that it is
    AI-generated, where the format has a place for that. ``whole`` sends nothing before all of it is made.

    Raises UnsupportedFormat, and InvalidValue for a speed out of range.
    """

    audio_format: str
    speed: float = 1.0
    marked: bool = True
    whole: bool = False

    def __post_init__(self) -> None:
        if self.audio_format not in CONTENT_TYPES:
            raise UnsupportedFormat(
                f"`response_format` is {shown(self.audio_format)}: choose from {', '.join(CONTENT_TYPES)}",
                param="response_format",
            )
        # Comparisons with NaN are false, so it is refused too.
        if not SLOWEST <= self.speed <= FASTEST:
            raise InvalidValue(
                f"`speed` is {self.speed}: it must be from {SLOWEST:g} to {FASTEST:g}, 1 is the voice's own",
                param="speed",
            )

    @property
    def content_type(self) -> str:
        """The format's content type."""
        return CONTENT_TYPES[self.audio_format]
