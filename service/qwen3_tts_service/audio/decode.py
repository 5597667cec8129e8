"""Recordings that clients send, as a waveform.

Bytes in, samples out, all in memory: ffmpeg reads nothing but the bytes it is given. Which of its many
demuxers and decoders may run is a list, so that a playlist, which names other files, is no recording; and
what a file claims of itself costs nothing, because counting is done on what really comes out.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Never

import numpy as np
import numpy.typing as npt
import soxr

from ..errors import InvalidValue
from .ffmpeg import av

#: What people are told, and the demuxers behind it.
FORMATS = ("wav", "mp3", "flac", "ogg", "m4a")
_DEMUXERS = "wav,mp3,flac,ogg,mov"
_DECODERS = {
    *("pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"),
    *("mp3", "mp3float", "flac", "vorbis", "opus", "libopus", "aac", "alac"),
}
_RATES = (8_000, 192_000)
_MOST_CHANNELS = 8
#: Every real file has some (headers, a decoder's first packets); a hostile one could have millions.
_MOST_PACKETS_WITHOUT_SOUND = 1_000


def decode(
    content: bytes, *, sample_rate: int, max_bytes: int, max_seconds: float, param: str
) -> npt.NDArray[np.float32]:
    """The recording in ``content`` as mono waveform [samples] at ``sample_rate`` Hz; channels are averaged.

    Raises InvalidValue, in the name of the field ``param``, for more than ``max_bytes`` or ``max_seconds``,
    for what is none of :data:`FORMATS`, is damaged, or has no sound. Decoding stops at the limit.
    """
    if len(content) > max_bytes:
        raise InvalidValue(
            f"`{param}` has {len(content)} bytes: at most {max_bytes} are read; send a shorter or a compressed "
            "recording",
            param=param,
        )
    pieces: list[npt.NDArray[np.float32]] = []
    rate, samples = 0, 0
    try:
        with av.open(
            io.BytesIO(content),
            "r",
            metadata_errors="replace",
            io_open=_open_nothing,
            container_options={
                "format_whitelist": _DEMUXERS,
                "codec_whitelist": ",".join(_DECODERS),
                "protocol_whitelist": "none",
            },
        ) as file:
            for frame in _frames(file, param):
                if samples == 0:
                    rate = _checked_rate(frame, param)
                elif frame.sample_rate != rate:
                    raise InvalidValue(
                        f"`{param}` changes from {rate} to {frame.sample_rate} Hz on its way: send it at one rate",
                        param=param,
                    )
                samples += frame.samples
                if samples > max_seconds * rate:
                    raise InvalidValue(
                        f"`{param}` is longer than {max_seconds:g} s: that is the limit; cut it to a part of "
                        "clear speech",
                        param=param,
                    )
                pieces.append(_mono(frame, param))
    # PyAV's errors are of OSError, ValueError, EOFError and others, as ffmpeg's number has it.
    except av.FFmpegError as error:
        raise InvalidValue(
            f"`{param}` cannot be read as {', '.join(FORMATS[:-1])} or {FORMATS[-1]} ({error.strerror}, after "
            f"{samples / rate if rate else 0:.1f} s of sound): send the recording in one of these formats, undamaged",
            param=param,
        ) from error
    if not samples:
        raise InvalidValue(f"`{param}` has no sound in it: send a recording of speech", param=param)
    resampled: npt.NDArray[np.float32] = soxr.resample(np.concatenate(pieces), rate, sample_rate)
    return resampled


def _open_nothing(url: str, flags: int, options: object) -> Never:
    raise PermissionError("a recording may not name another file")


def _frames(file: av.container.InputContainer, param: str) -> Iterator[av.AudioFrame]:
    """The first audio stream's frames that hold sound."""
    if not file.streams.audio:
        raise InvalidValue(
            f"`{param}` has no audio track: send a recording of speech, as {', '.join(FORMATS)}", param=param
        )
    stream = file.streams.audio[0]
    # The list given to ffmpeg holds for what it looks into while opening.
    # It is None for a codec that ffmpeg does not know.
    decoder = stream.codec_context.name if stream.codec_context is not None else "something unknown"
    if decoder not in _DECODERS:
        raise InvalidValue(
            f"`{param}` is compressed as {decoder}, which is not read here: send it as "
            f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}",
            param=param,
        )
    without_sound = 0
    for packet in file.demux(stream):
        silent = True
        for frame in packet.decode():
            assert isinstance(frame, av.AudioFrame)
            if frame.samples:
                silent = False
                yield frame
        without_sound += silent
        if without_sound > _MOST_PACKETS_WITHOUT_SOUND:
            raise InvalidValue(
                f"`{param}` holds {without_sound} packets without sound: that is no recording; export it again",
                param=param,
            )


def _checked_rate(frame: av.AudioFrame, param: str) -> int:
    lowest, highest = _RATES
    if not lowest <= frame.sample_rate <= highest:
        raise InvalidValue(
            f"`{param}` has {frame.sample_rate} samples a second: it must be from {lowest} to {highest}",
            param=param,
        )
    if frame.layout.nb_channels > _MOST_CHANNELS:
        raise InvalidValue(
            f"`{param}` has {frame.layout.nb_channels} channels: it may have {_MOST_CHANNELS}, and one is best",
            param=param,
        )
    return frame.sample_rate


def _mono(frame: av.AudioFrame, param: str) -> npt.NDArray[np.float32]:
    """The mean of the channels [samples], full scale at 1 and cut off there."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(frame.samples, -1).T
    with np.errstate(invalid="ignore"):  # infinity less infinity, which the next line finds
        mean = values.mean(axis=0, dtype=np.float64)
    if not np.isfinite(mean).all():
        raise InvalidValue(
            f"`{param}` holds samples that are no numbers (NaN or infinity): export it again", param=param
        )
    if values.dtype.kind != "f":
        half = 2.0 ** (8 * values.dtype.itemsize - 1)
        # Unsigned sound has its silence in the middle.
        mean = mean / half - (values.dtype.kind == "u")
    cut: npt.NDArray[np.float32] = np.clip(mean, -1, 1).astype(np.float32)
    return cut
