"""Reading and writing of audio files through soundfile.

This file does not come from torchaudio: the on-disk patch "torchaudio-soundfile" of qwen3-tts adds it, and
``torchaudio.load``, ``torchaudio.save`` and their ``_with_torchcodec`` twins are the two functions below.
Their signatures are torchaudio's. Where its releases disagree, they follow 2.8, the last that honoured every
argument: ``encoding`` and ``bits_per_sample`` choose what is written, a float tensor becomes a float WAV when
neither is given, and ``normalize=False`` returns the integers of an integer WAV.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import torch

_CONTAINERS = {
    "AIF": "AIFF",
    "NIS": "NIST",
    "OGA": "OGG",
    "OPUS": "OGG",
    "SPH": "NIST",
    "VORBIS": "OGG",
    "WAVE": "WAV",
}
_BITS_PER_SAMPLE = (8, 16, 24, 32, 64)
#: The containers in which the tensor's own type is written when the caller asks for nothing else.
_FOLLOWS_DTYPE = ("WAV", "WAVEX", "W64", "RF64")
_SUBTYPE_OF_DTYPE = {
    torch.uint8: "PCM_U8",
    torch.int16: "PCM_16",
    torch.int32: "PCM_32",
    torch.float32: "FLOAT",
    torch.float64: "DOUBLE",
}
_INTEGERS_OF_SUBTYPE = {"PCM_U8": "int16", "PCM_16": "int16", "PCM_24": "int32", "PCM_32": "int32"}


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise ImportError(f"torchaudio.load and save need soundfile with libsndfile: {error}") from error
    return soundfile


def _warn_about_ignored(backend: str | None, compression: float | None = None) -> None:
    if backend not in (None, "soundfile"):
        warnings.warn(
            f"backend={backend!r} is ignored, files go through soundfile", UserWarning, stacklevel=3
        )
    if compression is not None:
        warnings.warn("compression is ignored, soundfile's default is used", UserWarning, stacklevel=3)


def load(
    uri: BinaryIO | str | os.PathLike[str],
    frame_offset: int = 0,
    num_frames: int = -1,
    normalize: bool = True,
    channels_first: bool = True,
    format: str | None = None,
    buffer_size: int = 4096,
    backend: str | None = None,
) -> tuple[torch.Tensor, int]:
    """Read an audio file.

    Args:
        uri: Path, or file-like object with ``read``. No URLs.
        frame_offset: Samples per channel to skip.
        num_frames: Samples per channel to read at most; -1 reads all that follow the offset.
        normalize: False returns integer WAV data as uint8, int16 or int32 (24 bits too) instead of float32.
        channels_first: Shape ``[channel, time]`` if True, else ``[time, channel]``.
        format: Not needed, the content decides.
        buffer_size: Not used.
        backend: Not used, with a warning for any other than "soundfile".

    Returns:
        The samples, float32 in [-1, 1] unless ``normalize`` is False, and the sample rate in Hz.

    Raises:
        ValueError: The offset is negative, or the number of frames is less than -1.
        RuntimeError: The file cannot be read or decoded.
    """
    soundfile = _soundfile()
    _warn_about_ignored(backend)
    if frame_offset < 0:
        raise ValueError(f"frame_offset must be 0 or more, got {frame_offset}")
    if num_frames < -1:
        raise ValueError(f"num_frames must be -1 (all) or more, got {num_frames}")
    source: Any = uri
    if hasattr(uri, "read") and not (hasattr(uri, "seek") and hasattr(uri, "tell")):
        source = io.BytesIO(uri.read())
    try:
        with soundfile.SoundFile(source, "r") as file:
            dtype = "float32"
            if not normalize and file.format in _FOLLOWS_DTYPE:
                dtype = _INTEGERS_OF_SUBTYPE.get(file.subtype, "float32")
            file.seek(min(frame_offset, file.frames))
            samples = torch.from_numpy(file.read(num_frames, dtype=dtype, always_2d=True))
            if not normalize and file.subtype == "PCM_U8" and dtype == "int16":
                # libsndfile hands 8 bits out in the upper half of 16.
                samples = (samples // 256 + 128).to(torch.uint8)
            sample_rate = int(file.samplerate)
    except (OSError, RuntimeError, TypeError) as error:
        raise RuntimeError(f"Failed to load audio from {uri}: {error}") from error
    return (samples.t().contiguous() if channels_first else samples), sample_rate


def save(
    uri: BinaryIO | str | os.PathLike[str],
    src: torch.Tensor,
    sample_rate: int,
    channels_first: bool = True,
    format: str | None = None,
    encoding: str | None = None,
    bits_per_sample: int | None = None,
    buffer_size: int = 4096,
    backend: str | None = None,
    compression: float | None = None,
) -> None:
    """Write an audio file.

    Args:
        uri: Path, or file-like object with ``write``; the latter needs ``format``.
        src: ``[time]``, or ``[channel, time]`` (``[time, channel]`` if not ``channels_first``).
            Floats are in [-1, 1] and clipped to it where the file holds integers; bfloat16 and half become
            float32. Integers (uint8, int16, int32) use their whole range. Any device.
        sample_rate: Hz.
        channels_first: Meaning of a 2-D ``src``.
        format: "wav", "flac", "ogg", "mp3", "opus" or another that soundfile knows; None: by extension.
        encoding: "PCM_S", "PCM_U", "PCM_F", "ULAW", "ALAW", "VORBIS" or "OPUS".
        bits_per_sample: 8, 16, 24, 32 or 64.
        buffer_size: Not used.
        backend: Not used, with a warning for any other than "soundfile".
        compression: Not used, with a warning.

    Raises:
        ValueError: An argument is wrong, or the format cannot hold what was asked for.
        RuntimeError: The file cannot be written.
    """
    soundfile = _soundfile()
    _warn_about_ignored(backend, compression)
    if not isinstance(src, torch.Tensor):
        raise ValueError(f"Expected src to be a torch.Tensor, got {type(src)}")
    if src.ndim not in (1, 2):
        raise ValueError(f"Expected 1D or 2D tensor, got {src.ndim}D tensor")
    if sample_rate <= 0:
        raise ValueError(f"sample_rate must be positive, got {sample_rate}")
    container, default_subtype = _container(soundfile, uri, format)
    samples = src.detach().to("cpu")
    if samples.dtype in (torch.bfloat16, torch.float16):
        samples = samples.float()
    if samples.dtype not in _SUBTYPE_OF_DTYPE:
        allowed = ", ".join(str(dtype) for dtype in _SUBTYPE_OF_DTYPE)
        raise ValueError(f"Cannot save {samples.dtype}; allowed are {allowed}, bfloat16 and float16")
    if container in _FOLLOWS_DTYPE:
        default_subtype = _SUBTYPE_OF_DTYPE[samples.dtype]
    subtype = _subtype(soundfile, container, default_subtype, encoding, bits_per_sample)
    if samples.dtype == torch.uint8:
        # soundfile takes no unsigned samples: the same 8 bits, in the upper half of 16.
        samples = (samples.to(torch.int16) - 128) * 256
    if samples.ndim == 2 and channels_first:
        samples = samples.t()
    data = samples.contiguous().numpy()
    try:
        if hasattr(uri, "write"):
            # Through memory: libsndfile seeks back to write its header, which pipes and sockets cannot.
            whole = io.BytesIO()
            soundfile.write(whole, data, sample_rate, subtype=subtype, format=container)
            uri.write(whole.getvalue())
        else:
            soundfile.write(os.fspath(uri), data, sample_rate, subtype=subtype, format=container)
    except (OSError, RuntimeError, TypeError) as error:
        raise RuntimeError(f"Failed to save audio to {uri}: {error}") from error


def _container(soundfile: Any, uri: Any, format: str | None) -> tuple[str, str]:
    """Return soundfile's names of the file format (by ``format`` or extension) and of its subtype."""
    if format is None:
        if hasattr(uri, "write"):
            raise ValueError("format is required when saving to a file-like object")
        format = Path(uri).suffix.lstrip(".")
        if not format:
            raise ValueError(f"{uri} has no extension to tell the format from; give format")
    name = format.upper()
    container = _CONTAINERS.get(name, name)
    allowed = set(soundfile.available_formats()) - {"RAW"}
    if container not in allowed:
        raise ValueError(f"Unknown audio format {format!r}; allowed are {', '.join(sorted(allowed)).lower()}")
    return container, "OPUS" if name == "OPUS" else str(soundfile.default_subtype(container))


def _subtype(
    soundfile: Any, container: str, default: str, encoding: str | None, bits_per_sample: int | None
) -> str:
    """Return soundfile's subtype for torchaudio's ``encoding`` and ``bits_per_sample``."""
    if bits_per_sample not in (None, *_BITS_PER_SAMPLE):
        raise ValueError(f"bits_per_sample must be one of {_BITS_PER_SAMPLE}, got {bits_per_sample}")
    wanted = encoding.upper() if encoding is not None else None
    pcm = [f"PCM_{bits_per_sample}"]
    candidates: list[str]
    if wanted is None:
        # 8 bits are unsigned in WAV and signed elsewhere.
        candidates = {None: [default], 8: ["PCM_S8", "PCM_U8"]}.get(bits_per_sample, pcm)
    elif wanted == "PCM_S":
        candidates = {None: ["PCM_32", default], 8: ["PCM_S8"]}.get(bits_per_sample, pcm)
    elif wanted == "PCM_F":
        candidates = {None: ["FLOAT"], 32: ["FLOAT"], 64: ["DOUBLE"]}.get(bits_per_sample, [])
    elif wanted == "PCM_U":
        candidates = ["PCM_U8"] if bits_per_sample in (None, 8) else []
    elif wanted in ("ULAW", "ALAW"):
        candidates = [wanted] if bits_per_sample in (None, 8) else []
    else:
        candidates = [wanted] if bits_per_sample is None else []
    for candidate in candidates:
        if candidate in soundfile.available_subtypes(container):
            return candidate
    allowed = ", ".join(sorted(soundfile.available_subtypes(container)))
    raise ValueError(
        f"{container} cannot hold encoding={encoding!r} with bits_per_sample={bits_per_sample}; "
        f"soundfile writes it as {allowed}"
    )
