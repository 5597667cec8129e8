"""Speech by upstream's own generate: correct by definition, one request at a time.

It is what the faster engine is compared with, and the engine of this version.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from ..checkpoints.load import LoadedModel, codec_kernels, load
from ..errors import (
    Cancelled,
    DeviceFault,
    EngineError,
    InvalidValue,
    NotSupportedByModel,
    TTSError,
    UnknownLanguage,
    UnknownVoice,
    shown,
)
from ..speech.request import SpeechRequest

logger = logging.getLogger(__name__)

#: Upstream drops instructions silently for this size.
_SIZE_WITHOUT_INSTRUCTIONS = "0b6"


#: How torch begins the messages of errors after which a GPU context is lost (running out of memory is none).
_DEVICE_FAULT = re.compile(r"\b(CUDA|HIP) error:")


def _never() -> bool:
    return False


def _failure(part: str, error: Exception) -> EngineError:
    kind = DeviceFault if _DEVICE_FAULT.search(str(error)) else EngineError
    return kind(f"the {part} failed: {error}")


class ReferenceEngine:
    """Turns a :class:`SpeechRequest` into a waveform with upstream's ``generate``.

    Attributes: ``speakers`` and ``languages`` (names in the checkpoint's config, languages without dialects
    but with ``auto``), ``model_type`` and ``model_size`` as the config spells them, ``sample_rate`` in Hz,
    ``device`` and ``dtype`` of the language model, ``synthetic``: whether the weights are random.
    """

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        talker_config = model.checkpoint.config["talker_config"]
        self.speakers: tuple[str, ...] = tuple(talker_config.get("spk_id") or ())
        self.languages: tuple[str, ...] = (
            "auto",
            *(name for name in talker_config["codec_language_id"] if "dialect" not in name),
        )
        self.model_type = model.checkpoint.model_type
        self.model_size = model.checkpoint.model_size
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
        if self.model_type == "base":
            raise NotSupportedByModel(
                "this is a base checkpoint: it only clones a voice from a recording. Load a CustomVoice "
                "checkpoint for built-in voices, or a VoiceDesign one to describe a voice",
                param="model",
            )
        if self.model_type == "voice_design" and request.voice is not None:
            raise UnknownVoice(
                f"voice {shown(request.voice)}: a VoiceDesign checkpoint has no built-in voices. "
                "Describe the voice in the instructions and leave the voice out",
                param="voice",
            )
        if self.model_type == "voice_design" and not request.instructions:
            raise InvalidValue(
                "`instructions` is missing: describe the voice that shall speak", param="instructions"
            )
        if self.model_type == "custom_voice" and request.voice is None:
            raise InvalidValue(f"`voice` is missing: choose from {', '.join(self.speakers)}", param="voice")
        if self.model_type == "custom_voice" and (request.voice or "").lower() not in self.speakers:
            raise UnknownVoice(
                f"voice {shown(request.voice)} is not known: choose from {', '.join(self.speakers)}",
                param="voice",
            )
        if (request.language or "auto").lower() not in self.languages:
            raise UnknownLanguage(
                f"language {shown(request.language)} is not known: choose from {', '.join(self.languages)}",
                param="language",
            )
        if request.instructions and self.model_size == _SIZE_WITHOUT_INSTRUCTIONS:
            raise NotSupportedByModel(
                "the 0.6B models ignore instructions; leave them out, or load a 1.7B checkpoint",
                param="instructions",
            )
        if not request.text.strip():
            raise InvalidValue("the text is empty", param="input")
        if request.max_frames < 1:
            raise InvalidValue(
                f"max_frames is {request.max_frames}, it must be at least 1", param="max_frames"
            )

    def synthesize(
        self, request: SpeechRequest, *, should_stop: Callable[[], bool] = _never, greedy: bool = False
    ) -> npt.NDArray[np.float32]:
        """Speak ``request``: a mono waveform in [-1, 1], 1920 samples a frame at 24 kHz.

        ``should_stop`` is asked before every frame. ``greedy`` takes the likeliest code each time and needs
        no seed. Raises InvalidRequest as :meth:`check` does, Cancelled when ``should_stop`` said so, and
        EngineError when the model fails.
        """
        return self.decode(self.codes(request, should_stop=should_stop, greedy=greedy))

    def codes(
        self, request: SpeechRequest, *, should_stop: Callable[[], bool] = _never, greedy: bool = False
    ) -> torch.Tensor:
        """The frames of ``request`` as codes [frames, 16], on the model's device. As :meth:`synthesize`."""
        self.check(request)
        upstream: Any = self.model.upstream
        sampling: dict[str, Any] = {"do_sample": False, "subtalker_dosample": False} if greedy else {}
        text_ids = upstream._tokenize_texts([upstream._build_assistant_text(request.text)])
        instruction_ids = [None]
        if request.instructions:
            instruction_ids = upstream._tokenize_texts([upstream._build_instruct_text(request.instructions)])

        def stop_here(*_: Any) -> None:
            if should_stop():
                raise Cancelled("the request was given up while it was spoken")

        with self._lock:
            # generate() of the whole model takes no stopping criteria, so each talker step asks first.
            hook = upstream.model.talker.register_forward_pre_hook(stop_here)
            try:
                torch.manual_seed(secrets.randbits(63) if request.seed is None else request.seed)
                [codes], _ = upstream.model.generate(
                    input_ids=text_ids,
                    instruct_ids=instruction_ids,
                    languages=[(request.language or "auto").lower()],
                    speakers=[request.voice.lower() if request.voice else None],
                    non_streaming_mode=True,
                    # The first step reads the prompt and gives no frame.
                    **upstream._merge_generate_kwargs(max_new_tokens=request.max_frames + 1, **sampling),
                )
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

    def decode(self, codes: torch.Tensor) -> npt.NDArray[np.float32]:
        """Turn codes [frames, 16] into a waveform of 1920 samples a frame. Raises EngineError."""
        try:
            with codec_kernels(self.model.codec_device):
                [waveform], _ = self._codec.decode({"audio_codes": codes[None]})
        except (RuntimeError, ValueError, IndexError) as error:
            raise _failure("codec", error) from error
        return np.asarray(waveform, dtype=np.float32)
