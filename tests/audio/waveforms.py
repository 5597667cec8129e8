"""Sounds for the tests of ``audio/``, and an independent look at what became of them."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import numpy.typing as npt

RATE = 24_000
FRAME = 1920

Waveform = npt.NDArray[np.float64]


def tone(seconds: float, hertz: float = 440.0, amplitude: float = 0.3) -> npt.NDArray[np.int16]:
    times = np.arange(round(seconds * RATE)) / RATE
    return np.rint(32767 * amplitude * np.sin(2 * np.pi * hertz * times)).astype(np.int16)


def speechlike(seconds: float, seed: int = 0) -> npt.NDArray[np.int16]:
    """Syllables: harmonics of a gliding voice under an envelope, with noise between them."""
    random = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * times)) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 12))
    envelope = np.clip(np.sin(2 * np.pi * 3.1 * times), 0, None)
    sound = 0.15 * envelope * voice + 0.01 * random.standard_normal(len(times))
    return np.rint(32767 * np.clip(sound, -1, 1)).astype(np.int16)


def pieces(samples: npt.NDArray[np.int16], length: int = FRAME) -> list[npt.NDArray[np.int16]]:
    return [samples[start : start + length] for start in range(0, len(samples), length)]


def decoded(content: bytes, container: str | None = None) -> tuple[Waveform, int]:
    """What a player hears, by ffmpeg's decoders: samples in [-1, 1], and their rate in Hz."""
    with av.open(io.BytesIO(content), format=container) as file:
        frames = list(file.decode(audio=0))
    assert {frame.layout.nb_channels for frame in frames} == {1}
    scale = 32768 if frames[0].format.name.startswith("s16") else 1
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]) / scale, frames[0].sample_rate


def loudest_hertz(samples: npt.NDArray[np.int16] | Waveform, rate: int = RATE) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 1 << 18))
    return float(spectrum.argmax() * rate / (1 << 18))


def clicks(samples: Waveform, rate: int) -> list[float]:
    """Seconds at which a smooth sound jumps: where its second difference is far beyond the usual."""
    bend = np.abs(np.diff(samples, 2))
    return [float(position) / rate for position in np.flatnonzero(bend > 8 * np.percentile(bend, 99))]


def shifted(one: Waveform, other: npt.NDArray[Any]) -> int:
    """By how many samples ``other`` lags behind ``one``."""
    size = len(one) + len(other)
    product = np.fft.rfft(other, size) * np.conj(np.fft.rfft(one, size))
    lag = int(np.fft.irfft(product, size).argmax())
    return lag if lag < len(other) else lag - size
