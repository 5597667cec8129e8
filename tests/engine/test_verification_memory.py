"""What the comparison at the start holds of a device's memory, which torch would keep reserved afterwards."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from qwen3_tts_service.engine import verification
from qwen3_tts_service.engine.transformer import KeyValueCache

from .live_memory import peak_bytes

LAYERS, KV_HEADS, POSITIONS, HEAD_DIM = 28, 2, 256, 16
VOCABULARY, HIDDEN = 64, 4


def cache_of_a_model() -> Any:
    """A model as the comparison sees it, whose reading holds nothing: only what the comparison holds is counted."""
    weights = SimpleNamespace(
        layers=[None] * LAYERS,
        kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        norm=torch.zeros(HIDDEN, dtype=torch.bfloat16),
    )
    cache = KeyValueCache(weights, slots=2, positions=POSITIONS)  # type: ignore[arg-type]

    def prefill(slot: int, embeds: Tensor) -> None:
        cache.whole[:, :, slot, :, : len(embeds)].fill_(1.5)

    return SimpleNamespace(
        device=torch.device("cpu"),
        dtype=torch.bfloat16,
        embedding=torch.zeros(VOCABULARY, HIDDEN, dtype=torch.bfloat16),
        talker=SimpleNamespace(cache=cache),
        prefill=prefill,
    )


def test_comparing_how_a_prompt_is_read_holds_a_few_layers_and_the_slot_once_on_the_host() -> None:
    model = cache_of_a_model()
    slot = model.talker.cache.whole[:, :, 0].nbytes
    layer = slot // LAYERS
    host, wide = slot, 2 * layer  # one copy as it stands; a layer's in float32
    peak = peak_bytes(lambda: verification.verify_prefill(model, model.prefill, POSITIONS))
    # The ids and inputs of the prompt are less than a layer too.
    assert host < peak < host + 6 * wide


def test_the_counter_sees_what_is_held_at_once() -> None:
    def program() -> None:
        first = torch.zeros(1000)
        second = first.double()
        del first
        second.add_(1).view(10, 100)
        torch.zeros(500)

    assert peak_bytes(program) == 1000 * 4 + 1000 * 8
