"""The formats with a container, made by ffmpeg's libraries (PyAV) in memory."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from .ffmpeg import av
from .pcm import Samples

#: What the metadata say about speech from here.
MARK = "AI-generated speech"


@dataclass(frozen=True)
class Container:
    """How ffmpeg makes one format: its names of container and codec, bits a second, and their options."""

    name: str
    codec: str
    bit_rate: int | None = None
    container_options: Mapping[str, str] = field(default_factory=dict)
    codec_options: Mapping[str, str] = field(default_factory=dict)


#: Format name -> how it is made. Bit rates are beyond what one can hear in mono speech of 24 kHz.
CONTAINERS = {
    "mp3": Container("mp3", "libmp3lame", 96_000),
    # A page is what leaves at a time: ffmpeg's own pages hold a second of sound.
    # A third of the computing that libopus spends by default.
    "opus": Container(
        "ogg", "libopus", 48_000, {"page_duration": "40000"}, codec_options={"compression_level": "5"}
    ),
    "aac": Container("adts", "aac", 96_000),
    # A block of 80 ms, which is what the codec makes at a time. ffmpeg would leave 8 KiB of room for tags.
    "flac": Container(
        "flac",
        "flac",
        container_options={"metadata_header_padding": "0"},
        codec_options={"frame_size": "1920"},
    ),
}


class _Pipe:
    """A file that can only be written; what was written is taken away by :meth:`getvalue`.

    ffmpeg sees that there is no ``seek``, and writes nothing that it would have to come back to.
    """

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, content: bytes) -> int:
        self._written += content
        return len(content)

    def getvalue(self) -> bytes:
        taken = bytes(self._written)
        self._written.clear()
        return taken


class ContainerEncoder:
    """An :class:`~.encoders.Encoder` of a format in :data:`CONTAINERS`; arguments as for ``encoder()``.

    It holds back what its codec needs to look ahead, at most 0.1 s of sound, and nothing else unless ``whole``.
    """

    def __init__(self, audio_format: str, sample_rate: int, *, whole: bool, marked: bool) -> None:
        chosen = CONTAINERS[audio_format]
        self._file = io.BytesIO() if whole else _Pipe()
        self._whole = whole
        self._container = av.open(
            self._file,
            "w",
            format=chosen.name,
            options={"flush_packets": "1", **chosen.container_options},
        )
        if marked:
            self._container.metadata["comment"] = MARK
        stream = self._container.add_stream(
            chosen.codec, rate=sample_rate, options=dict(chosen.codec_options), layout="mono"
        )
        assert isinstance(stream, av.AudioStream)
        self._stream = stream
        if chosen.bit_rate is not None:
            self._stream.bit_rate = chosen.bit_rate
        self._sample_rate = sample_rate
        self._position = 0

    def feed(self, samples: Samples) -> bytes:
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = self._sample_rate
        frame.time_base = Fraction(1, self._sample_rate)
        frame.pts = self._position
        self._position += len(samples)
        self._container.mux(self._stream.encode(frame))
        return b"" if self._whole else self._file.getvalue()

    def finish(self) -> bytes:
        # Without any sound there was no packet, which is what begins the container.
        self._container.start_encoding()
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._file.getvalue()
