"""Samples as the bytes of a format, piece by piece.

One encoder makes one answer, from its first sample to its last, whatever the pieces are: there is no seam. An
encoder that is not ``whole`` gives its bytes as early as the format allows and never takes one back. So what
a format keeps at its front and knows only at the end is missing there: the length of a WAV (both length
fields hold 0xFFFFFFFF, as ffmpeg writes into a pipe and OpenAI's service sends: players read on until the
end) and of a FLAC (0, its word for unknown, on which libsndfile stumbles), and an MP3's LAME tag, without
which players cannot cut off the encoder's delay (1105 samples) and its last frame's filling.
"""

from __future__ import annotations

import struct
from typing import Protocol

from .containers import CONTAINERS, ContainerEncoder
from .pcm import BYTES_A_SAMPLE, Samples, little_endian

_UNKNOWN = 0xFFFFFFFF


class Encoder(Protocol):
    """Makes the bytes of one answer."""

    def feed(self, samples: Samples) -> bytes:
        """Take the next samples, at least one; return what can leave, which may be nothing yet."""

    def finish(self) -> bytes:
        """There are no more samples: return the rest. Called once, at the end."""


def encoder(audio_format: str, sample_rate: int, *, whole: bool, marked: bool) -> Encoder:
    """An encoder for ``audio_format``, a name of :data:`..speech.formats.CONTENT_TYPES`; ``sample_rate`` in Hz.

    ``whole`` keeps everything until the end, for a front that tells the length. ``marked`` writes that the
    speech is AI-generated where the format has a place for it: mp3, opus and flac. A WAV has one too (LIST),
    but many clients skip 44 bytes and take the rest for sound.
    """
    if audio_format in CONTAINERS:
        return ContainerEncoder(audio_format, sample_rate, whole=whole, marked=marked)
    if audio_format == "pcm":
        return PCMEncoder()
    return WholeWAVEncoder(sample_rate) if whole else WAVEncoder(sample_rate)


class PCMEncoder:
    """The samples and nothing else."""

    def feed(self, samples: Samples) -> bytes:
        return little_endian(samples)

    def finish(self) -> bytes:
        return b""


class WAVEncoder:
    """A WAV of unknown length."""

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._begun = False

    def feed(self, samples: Samples) -> bytes:
        header = b"" if self._begun else wav_header(self._sample_rate, None)
        self._begun = True
        return header + little_endian(samples)

    def finish(self) -> bytes:
        # Without any sound its length is known after all.
        return b"" if self._begun else wav_header(self._sample_rate, 0)


class WholeWAVEncoder:
    """A WAV whose header tells its length."""

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._sound = bytearray()

    def feed(self, samples: Samples) -> bytes:
        self._sound += little_endian(samples)
        return b""

    def finish(self) -> bytes:
        return wav_header(self._sample_rate, len(self._sound)) + self._sound


def wav_header(sample_rate: int, sound_bytes: int | None) -> bytes:
    """The 44 bytes before the sound of a mono WAV; ``sound_bytes`` None where its length is not known yet."""
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", _UNKNOWN if sound_bytes is None else 36 + sound_bytes, b"WAVE"),
        # PCM, mono.
        *(b"fmt ", 16, 1, 1, sample_rate, sample_rate * BYTES_A_SAMPLE, BYTES_A_SAMPLE, 16),
        *(b"data", _UNKNOWN if sound_bytes is None else sound_bytes),
    )
