"""From a recording to what the model keeps of a voice: speaker embedding and codes.

As upstream's ``create_voice_clone_prompt``, but from samples in memory only: upstream's own loader opens the
URLs and paths that it is given.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import librosa
import numpy as np
import numpy.typing as npt
import soxr
import torch

from ..checkpoints.load import LoadedModel, codec_kernels
from ..errors import InvalidValue, shown
from ..speech.request import SAMPLES_A_FRAME, CloneReference, VoicePrompt
from .recording_codes import RecordingEncoder

#: Upstream's speaker encoder and codec both read 24 kHz.
SAMPLE_RATE = 24_000

#: Limits of a recording: seconds, Hz, and amplitudes between silence and a wrong scale (int16 as float).
MIN_SECONDS, MAX_SECONDS = 1.0, 60.0
_MIN_RATE, _MAX_RATE = 8_000, 192_000
_SILENCE, _LOUDEST = 1e-3, 2.0

#: Upstream's spectrogram for the speaker encoder (``extract_speaker_embedding``): samples, bands, Hz.
_WINDOW, _HOP, _BANDS, _TOP_HZ = 1024, 256, 128, 12_000


def check_recording(recording: CloneReference) -> None:
    """Raise the InvalidValue that :meth:`VoiceEncoder.encode` would raise, naming value, limit and way out."""
    rate, waveform = recording.sample_rate, recording.waveform
    if not _MIN_RATE <= rate <= _MAX_RATE:
        raise InvalidValue(
            f"the recording has {shown(rate)} samples a second, it must have {_MIN_RATE} to {_MAX_RATE}",
            param="clone",
        )
    if waveform.ndim != 1 or waveform.dtype != np.float32:
        raise InvalidValue(
            f"the recording is {waveform.dtype} of shape {waveform.shape}, it must be mono float32 [samples]",
            param="clone",
        )
    seconds = len(waveform) / rate
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        advice = "record more" if seconds < MIN_SECONDS else "cut it; ten seconds are plenty"
        raise InvalidValue(
            f"the recording lasts {seconds:.2f} s, it must last {MIN_SECONDS:g} to {MAX_SECONDS:g} s: {advice}",
            param="clone",
        )
    # One pass finds NaN and infinity too: they carry through minimum and maximum.
    peak = float(max(-waveform.min(), waveform.max()))
    if not np.isfinite(peak):
        raise InvalidValue(
            "the recording holds samples that are NaN or infinite: convert it again", param="clone"
        )
    if peak < _SILENCE:
        raise InvalidValue(
            f"the recording is silent (its largest sample is {peak:.1e}, at least {_SILENCE:g} is needed): "
            "check the microphone",
            param="clone",
        )
    if peak > _LOUDEST:
        raise InvalidValue(
            f"the largest sample of the recording is {peak:g}: scale it to [-1, 1]", param="clone"
        )


def frames_of(recording: CloneReference) -> int:
    """How many frames of codes the codec makes of it; a begun frame counts."""
    return -(-_samples_at_24_khz(recording) // SAMPLES_A_FRAME)


def _samples_at_24_khz(recording: CloneReference) -> int:
    """As ``librosa.resample`` counts, which upstream uses: through a rounded ratio, so now and then one more."""
    return math.ceil(len(recording.waveform) * (SAMPLE_RATE / recording.sample_rate))


def _at_24_khz(recording: CloneReference) -> npt.NDArray[np.float32]:
    """The samples of ``recording`` at 24 kHz, by the resampler behind ``librosa.resample``.

    Not by that function: its first call imports a compiler and half of SciPy, seconds of a request's time.
    """
    if recording.sample_rate == SAMPLE_RATE:
        return np.ascontiguousarray(recording.waveform)
    resampled = soxr.resample(recording.waveform, recording.sample_rate, SAMPLE_RATE, quality="HQ")
    wanted = _samples_at_24_khz(recording)
    return np.pad(resampled[:wanted], (0, max(0, wanted - len(resampled))))


class VoiceEncoder:
    """Makes a :class:`VoicePrompt` of a recording, with the encoders of a base checkpoint.

    Runs on the calling thread. Several may call at once and take turns, so that memory stays bounded. It holds
    the speaker encoder and the codec's encoder, nothing of the talker.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._speaker_encoder: Any = model.upstream.model.speaker_encoder
        self._codec = RecordingEncoder(model.upstream.model.speech_tokenizer.model)
        self._device = model.device
        self._dtype = model.dtype
        self._codec_device = model.codec_device
        self._listening = threading.Lock()
        # Upstream computes the filters anew for every recording, which takes longer than applying them.
        self._filters = torch.from_numpy(
            librosa.filters.mel(sr=SAMPLE_RATE, n_fft=_WINDOW, n_mels=_BANDS, fmin=0, fmax=_TOP_HZ)
        ).float()

    @torch.no_grad()
    def encode(self, recording: CloneReference) -> VoicePrompt:
        """Listen to ``recording``. Raises InvalidValue as :func:`check_recording` does."""
        check_recording(recording)
        with self._listening:
            return self._encode(recording)

    def _encode(self, recording: CloneReference) -> VoicePrompt:
        samples = torch.from_numpy(_at_24_khz(recording))
        embedding = self._speaker_embedding(samples)
        if recording.text is None:
            return VoicePrompt(embedding)
        return VoicePrompt(embedding, self._codes(samples), recording.text)

    def _speaker_embedding(self, samples: torch.Tensor) -> npt.NDArray[np.float32]:
        with codec_kernels(self._device):
            spectrogram = self._log_mel(samples).to(self._device).to(self._dtype)
            embedding: torch.Tensor = self._speaker_encoder(spectrogram)[0]
        return np.asarray(embedding.float().cpu())

    def _log_mel(self, samples: torch.Tensor) -> torch.Tensor:
        """Logarithmic mel spectrogram [1, positions, bands] of ``samples`` [samples], as upstream's."""
        margin = (_WINDOW - _HOP) // 2
        padded = torch.nn.functional.pad(samples[None, None], (margin, margin), mode="reflect")[0]
        spectrum = torch.stft(
            padded,
            _WINDOW,
            hop_length=_HOP,
            win_length=_WINDOW,
            window=torch.hann_window(_WINDOW),
            center=False,
            return_complex=True,
        )
        magnitude = torch.sqrt(torch.view_as_real(spectrum).pow(2).sum(-1) + 1e-9)
        return torch.log(torch.clamp(self._filters @ magnitude, min=1e-5)).transpose(1, 2)

    def _codes(self, samples: torch.Tensor) -> npt.NDArray[np.int64]:
        """Codes [frames, 16] of ``samples`` [samples]."""
        with codec_kernels(self._codec_device):
            return np.asarray(self._codec.encode(samples.to(self._codec_device)).cpu())
