"""Upstream's own code under the clock: generate and decode as they are, on the model that is loaded."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from ..checkpoints.load import LoadedModel, codec_kernels
from ..engine.requests import RequestReader
from ..speech.request import SpeechRequest, VoicePrompt
from .observation import forbid_end
from .rates import synchronise
from .statistics import intervals

#: What upstream decodes again before each chunk, as its own ``chunked_decode`` does.
LEFT_CONTEXT = 25


@dataclass(frozen=True)
class Spoken:
    """One call of generate: codes [frames, 16] of each stream, seconds of each frame, seconds up to the first."""

    codes: list[torch.Tensor]
    frame_seconds: list[float]
    prefill_seconds: float
    seconds: float


def speak(model: LoadedModel, request: SpeechRequest, *, batch: int, frames: int) -> Spoken:
    """``frames`` frames of ``batch`` streams of the same request, by upstream's generate.

    The time of a frame is the gap between two talker steps; the model's waiting for the sampled code keeps the
    host in step with the device.
    """
    upstream: Any = model.upstream
    arguments = _arguments(model, request, batch)
    steps: list[float] = []

    def mark(*_: object) -> None:
        synchronise(model.device)
        steps.append(time.perf_counter())

    hooks = [upstream.model.talker.register_forward_pre_hook(mark), forbid_end(model)]
    try:
        torch.manual_seed(0)
        started = time.perf_counter()
        codes, _ = upstream.model.generate(
            # The first step reads the prompt and gives no frame.
            **arguments,
            **upstream._merge_generate_kwargs(max_new_tokens=frames + 1),
        )
        synchronise(model.device)
        ended = time.perf_counter()
    finally:
        for hook in hooks:
            hook.remove()
    # The gap behind the first mark is the prompt's.
    prefill, *gaps = [*intervals(steps), ended - steps[-1]]
    return Spoken(list(codes), gaps, steps[0] - started + prefill, ended - started)


def _arguments(model: LoadedModel, request: SpeechRequest, batch: int) -> dict[str, Any]:
    """``request`` ``batch`` times, as upstream's ``generate`` of the whole model takes it."""
    script = RequestReader(model).read(request)
    arguments: dict[str, Any] = {
        "input_ids": [script.text.to(model.device)] * batch,
        "languages": [script.language] * batch,
        "non_streaming_mode": request.feeding == "whole",
    }
    if isinstance(request.clone, VoicePrompt):
        embedding = torch.from_numpy(request.clone.speaker_embedding).to(model.device, model.dtype)
        arguments["voice_clone_prompt"] = {
            "ref_code": [None] * batch,
            "ref_spk_embedding": [embedding] * batch,
            "x_vector_only_mode": [True] * batch,
            "icl_mode": [False] * batch,
        }
        return arguments | {"ref_ids": [None] * batch}
    instructions = None if script.instructions is None else script.instructions.to(model.device)
    return arguments | {"speakers": [script.voice] * batch, "instruct_ids": [instructions] * batch}


def decode(model: LoadedModel, codes: torch.Tensor) -> None:
    """Decode codes [frames, 16] the way upstream's interface does, and wait for the sound."""
    with codec_kernels(model.codec_device), torch.inference_mode():
        model.upstream.model.speech_tokenizer.decode({"audio_codes": codes[None]})
    synchronise(model.codec_device)


def decode_in_chunks(decoder: Any, codes: torch.Tensor, chunk: int) -> torch.Tensor:
    """Decode codes [batch, 16, frames] in chunks, each with 25 frames before it decoded again.

    This is how sound is streamed with upstream's stateless decoder; the result [batch, samples] is
    approximate from the second chunk on.
    """
    parts = []
    for start in range(0, codes.shape[-1], chunk):
        context = min(LEFT_CONTEXT, start)
        part = decoder(codes[..., start - context : start + chunk])
        parts.append(part[:, 0, context * decoder.total_upsample :])
    return torch.cat(parts, dim=-1)
