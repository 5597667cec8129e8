"""Speech by upstream's own generate: correct by definition, one request at a time.

It is what the faster engine is compared with, and the engine of this version.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from ..checkpoints.load import LoadedModel, codec_kernels, load
from ..errors import Cancelled, DeviceFault, EngineError, NotSupportedByModel, TTSError, is_device_lost
from ..speech.request import SAMPLES_A_FRAME, CloneReference, Sampling, SpeechRequest, VoicePrompt
from .requests import RequestReader, default_sampling
from .voice import VoiceEncoder

logger = logging.getLogger(__name__)


def _never() -> bool:
    return False


def _failure(part: str, error: Exception) -> EngineError:
    kind = DeviceFault if is_device_lost(error) else EngineError
    return kind(f"the {part} failed: {error}")


class ReferenceEngine:
    """Turns a :class:`SpeechRequest` into a waveform with upstream's ``generate``.

    Attributes: ``speakers`` and ``languages`` (names in the checkpoint's config, languages without dialects
    but with ``auto``), ``model_type`` and ``model_size`` as the config spells them, ``sample_rate`` in Hz,
    ``device`` and ``dtype`` of the language model, ``synthetic``: whether the weights are random.
    """

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self._reader = RequestReader(model)
        self._voices = VoiceEncoder(model) if model.checkpoint.model_type == "base" else None
        self._default_sampling = default_sampling(model.checkpoint)
        self.speakers = self._reader.speakers
        self.languages = self._reader.languages
        self.model_type = self._reader.model_type
        self.model_size = self._reader.model_size
        self.synthetic = model.checkpoint.synthetic
        self.device = model.device
        self.dtype = model.dtype
        self._codec = model.upstream.model.speech_tokenizer
        self.sample_rate = int(self._codec.get_output_sample_rate())
        # Upstream keeps state of the running utterance in the model (rope_deltas): one at a time.
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        directory: Path | str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        codec_device: Literal["cpu", "gpu"] = "cpu",
        cpu_threads: int = 0,
    ) -> ReferenceEngine:
        """Load a checkpoint; arguments and errors as :func:`..checkpoints.load.load`."""
        return cls(
            load(directory, device=device, dtype=dtype, codec_device=codec_device, cpu_threads=cpu_threads)
        )

    def check(self, request: SpeechRequest) -> None:
        """Raise the InvalidRequest that ``synthesize`` would raise, without computing anything."""
        self._reader.check(request)

    def encode_reference(self, recording: CloneReference) -> VoicePrompt:
        """Listen to a recording, so that many requests can use it.

        Raises InvalidValue for a recording that is of no use, NotSupportedByModel on a checkpoint that does
        not clone.
        """
        if self._voices is None:
            raise NotSupportedByModel(
                f"a {self.model_type} checkpoint cannot clone a voice; load a base checkpoint", param="clone"
            )
        return self._voices.encode(recording)

    def synthesize(
        self, request: SpeechRequest, *, should_stop: Callable[[], bool] = _never, greedy: bool = False
    ) -> npt.NDArray[np.float32]:
        """Speak ``request``: a mono waveform in [-1, 1], 1920 samples a frame at 24 kHz.

        ``should_stop`` is asked before every frame. ``greedy`` takes the likeliest code each time and needs
        no seed. Raises InvalidRequest as :meth:`check` does, Cancelled when ``should_stop`` said so, and
        EngineError when the model fails.
        """
        self.check(request)
        request = self._with_voice(request)
        codes = self.codes(request, should_stop=should_stop, greedy=greedy)
        context = request.clone.codes if isinstance(request.clone, VoicePrompt) else None
        return self.decode(codes, context=context)

    def codes(
        self, request: SpeechRequest, *, should_stop: Callable[[], bool] = _never, greedy: bool = False
    ) -> torch.Tensor:
        """The frames of ``request`` as codes [frames, 16], on the model's device. As :meth:`synthesize`."""
        script = self._reader.read(request)
        arguments: dict[str, Any] = {
            "input_ids": [script.text.to(self.device)],
            "languages": [script.language],
            "non_streaming_mode": request.feeding == "whole",
            # The first step reads the prompt and gives no frame.
            "max_new_tokens": request.max_frames + 1,
            **_sampling_arguments(request.sampling or self._default_sampling, greedy=greedy),
        }
        voice = self._with_voice(request).clone
        if isinstance(voice, VoicePrompt):
            arguments["voice_clone_prompt"] = self._clone_prompt(voice)
            arguments["ref_ids"] = [
                None if script.reference_text is None else script.reference_text.to(self.device)
            ]
        else:
            arguments["speakers"] = [script.voice]
            arguments["instruct_ids"] = [
                None if script.instructions is None else script.instructions.to(self.device)
            ]
        upstream: Any = self.model.upstream.model

        def stop_here(*_: Any) -> None:
            if should_stop():
                raise Cancelled("the request was given up while it was spoken")

        with self._lock:
            # generate() of the whole model takes no stopping criteria, so each talker step asks first.
            hook = upstream.talker.register_forward_pre_hook(stop_here)
            try:
                torch.manual_seed(secrets.randbits(63) if request.seed is None else request.seed)
                [codes], _ = upstream.generate(**arguments)
            except TTSError:
                raise
            except (RuntimeError, ValueError, IndexError) as error:
                raise _failure("language model", error) from error
            finally:
                hook.remove()
        if len(codes) >= request.max_frames:
            logger.warning("speech was cut off at %d frames without an end", request.max_frames)
        result: torch.Tensor = codes
        return result

    def decode(
        self, codes: torch.Tensor, *, context: npt.NDArray[np.int64] | None = None
    ) -> npt.NDArray[np.float32]:
        """Turn codes [frames, 16] into a waveform of 1920 samples a frame. Raises EngineError.

        ``context`` [frames, 16] is what was heard just before: the codes of a recording that is continued.
        """
        before = 0
        if context is not None:
            before = len(context)
            codes = torch.cat((torch.from_numpy(context).to(codes), codes))
        try:
            with codec_kernels(self.model.codec_device):
                [waveform], _ = self._codec.decode({"audio_codes": codes[None]})
        except (RuntimeError, ValueError, IndexError) as error:
            raise _failure("codec", error) from error
        return np.asarray(waveform[before * SAMPLES_A_FRAME :], dtype=np.float32)

    def _with_voice(self, request: SpeechRequest) -> SpeechRequest:
        """``request`` with its recording, if it has one, listened to."""
        if isinstance(request.clone, CloneReference):
            return replace(request, clone=self.encode_reference(request.clone))
        return request

    def _clone_prompt(self, voice: VoicePrompt) -> dict[str, list[Any]]:
        """``voice`` as upstream's ``voice_clone_prompt`` for one text."""
        embedding = torch.from_numpy(voice.speaker_embedding).to(self.device, self.dtype)
        in_context = voice.codes is not None
        return {
            "ref_code": [None if voice.codes is None else torch.from_numpy(voice.codes).to(self.device)],
            "ref_spk_embedding": [embedding],
            "x_vector_only_mode": [not in_context],
            "icl_mode": [in_context],
        }


def _sampling_arguments(sampling: Sampling, *, greedy: bool) -> dict[str, Any]:
    """``sampling`` as arguments of upstream's ``generate``."""
    draws = not (greedy or sampling.greedy)
    return {
        "do_sample": draws,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "repetition_penalty": sampling.repetition_penalty,
        "subtalker_dosample": draws,
        "subtalker_temperature": sampling.subtalker_temperature,
        "subtalker_top_k": sampling.subtalker_top_k,
        "subtalker_top_p": sampling.subtalker_top_p,
    }
