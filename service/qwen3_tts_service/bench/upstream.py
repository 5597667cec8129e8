"""Upstream's own code under the clock: generate and decode as they are, on the model that is loaded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..checkpoints.load import LoadedModel, codec_kernels
from ..speech.request import SpeechRequest
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


@contextmanager
def without_an_end(model: LoadedModel) -> Iterator[None]:
    """Keep the language model from ending by itself, so that every run has the length that was asked for.

    Random weights end anywhere, and so may real ones: two programs are compared over the same number of frames.
    """
    eos = model.checkpoint.config["talker_config"]["codec_eos_token_id"]

    def forbid(_module: object, _inputs: object, logits: torch.Tensor) -> torch.Tensor:
        logits[..., eos] = float("-inf")
        return logits

    hook = model.upstream.model.talker.codec_head.register_forward_hook(forbid)
    try:
        yield
    finally:
        hook.remove()


def speak(model: LoadedModel, request: SpeechRequest, *, batch: int, frames: int) -> Spoken:
    """``frames`` frames of ``batch`` streams of the same request, by upstream's generate.

    The time of a frame is the gap between two talker steps; the model's waiting for the sampled code keeps the
    host in step with the device.
    """
    upstream: Any = model.upstream
    text_ids = upstream._tokenize_texts([upstream._build_assistant_text(request.text)] * batch)
    instruction_ids: list[Any] = [None] * batch
    if request.instructions:
        instruction_ids = upstream._tokenize_texts(
            [upstream._build_instruct_text(request.instructions)] * batch
        )
    steps: list[float] = []

    def mark(*_: object) -> None:
        synchronise(model.device)
        steps.append(time.perf_counter())

    hook = upstream.model.talker.register_forward_pre_hook(mark)
    try:
        with without_an_end(model):
            torch.manual_seed(0)
            started = time.perf_counter()
            codes, _ = upstream.model.generate(
                input_ids=text_ids,
                instruct_ids=instruction_ids,
                languages=[(request.language or "auto").lower()] * batch,
                speakers=[request.voice.lower() if request.voice else None] * batch,
                non_streaming_mode=True,
                # The first step reads the prompt and gives no frame.
                **upstream._merge_generate_kwargs(max_new_tokens=frames + 1),
            )
            synchronise(model.device)
            ended = time.perf_counter()
    finally:
        hook.remove()
    # The gap behind the first mark is the prompt's.
    prefill, *gaps = [*intervals(steps), ended - steps[-1]]
    return Spoken(list(codes), gaps, steps[0] - started + prefill, ended - started)


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
