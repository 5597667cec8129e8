"""What building the engine takes of a GPU: the largest geometry, counted by the rules of torch's allocator."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from qwen3_tts_service.checkpoints.geometry import model_config
from qwen3_tts_service.checkpoints.load import Checkpoint, LoadedModel
from qwen3_tts_service.engine import transformer
from qwen3_tts_service.engine.frame import FrameModel

from .caching_allocator import CachingAllocator
from .live_memory import Watch

GB = 1e9
META = torch.device("meta")


def loaded(memory: Watch) -> LoadedModel:
    """Upstream's 1.7B in bf16 as ``load`` leaves it on a GPU: every tensor moved by itself."""
    from qwen_tts.core.models import Qwen3TTSConfig, Qwen3TTSForConditionalGeneration

    with META:
        upstream: Any = Qwen3TTSForConditionalGeneration(
            Qwen3TTSConfig(**model_config("1.7b", "custom_voice"))
        )
    upstream.to(torch.bfloat16)
    with memory:
        for parameter in upstream.parameters():
            parameter.data = torch.empty_like(parameter.data)
    return LoadedModel(
        cast(Checkpoint, None),
        cast(Any, SimpleNamespace(model=upstream)),
        META,
        torch.bfloat16,
        codec_device=META,
        held_before=0,
    )


def test_weights_keys_and_values_of_the_largest_model_take_little_more_than_their_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The goal is 7.5 GB with graphs and verification, whose share comes on top of this."""
    allocator = CachingAllocator()
    memory = Watch(allocator.allocate, allocator.free, device="meta")
    monkeypatch.setattr(transformer, "give_back", lambda device: allocator.empty_cache())
    model = loaded(memory)
    with memory:
        engine = FrameModel(model, slots=8, positions=2048, release_upstream=True)
    assert engine.talker.cache.whole.nbytes / GB == pytest.approx(1.88, abs=0.01)
    assert allocator.used / GB == pytest.approx(5.86, abs=0.02)
    assert allocator.most / GB < 6.2


def test_blocks_are_cut_and_joined_within_their_segment_only() -> None:
    mib = 1 << 20
    allocator = CachingAllocator()
    halves = [allocator.allocate(24 * mib) for _ in range(2)]
    for half in halves:
        allocator.free(half)
    whole = allocator.allocate(48 * mib)
    assert allocator.reserved == 96 * mib
    pieces = [allocator.allocate(16 * mib), allocator.allocate(8 * mib), allocator.allocate(24 * mib)]
    assert (allocator.reserved, allocator.used) == (96 * mib, 96 * mib)
    for block in (*pieces, whole):
        allocator.free(block)
    again = allocator.allocate(24 * mib)
    allocator.empty_cache()
    assert (allocator.reserved, allocator.most) == (24 * mib, 96 * mib)
    allocator.free(again)
    few = [allocator.allocate(4 * mib) for _ in range(2)]
    assert allocator.reserved == 24 * mib
    for block in few:
        allocator.free(block)
    allocator.empty_cache()
    assert (allocator.reserved, allocator.used) == (0, 0)
