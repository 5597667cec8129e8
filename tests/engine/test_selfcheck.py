"""The numeric self-check: passes on a sound device, turns red on planted faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3_tts_service.checkpoints.load import LoadedModel, load
from qwen3_tts_service.engine import selfcheck
from qwen3_tts_service.errors import SelfCheckFailed


@pytest.fixture
def model(tiny_checkpoint: Path) -> LoadedModel:
    """A bf16 copy of its own for each test: the CPU plays the device."""
    return load(tiny_checkpoint, device="cpu", dtype="bf16", cpu_threads=1)


def test_bf16_passes_with_room(model: LoadedModel) -> None:
    report = selfcheck.check(model)
    assert 0.001 < report.max_error < report.tolerance / 3


def test_fp32_passes_closely(tiny_checkpoint: Path) -> None:
    report = selfcheck.check(load(tiny_checkpoint, device="cpu", dtype="fp32", cpu_threads=1))
    assert report.max_error < 1e-4


def scaled_weight(talker: Any) -> None:
    talker.model.layers[1].mlp.down_proj.weight.data *= 2


def nan(talker: Any) -> None:
    talker.model.layers[2].self_attn.o_proj.weight.data[0, 0] = float("nan")


def wrong_rotary_frequencies(talker: Any) -> None:
    talker.model.rotary_emb.inv_freq *= 1.5


def noise_in_the_predictor(talker: Any) -> None:
    torch.nn.init.normal_(talker.code_predictor.lm_head[14].weight, std=0.1)


def wrong_text_embedding(talker: Any) -> None:
    talker.model.text_embedding.weight.data = talker.model.text_embedding.weight.data.roll(1, dims=0)


@pytest.mark.parametrize(
    "fault", [scaled_weight, nan, wrong_rotary_frequencies, noise_in_the_predictor, wrong_text_embedding]
)
def test_planted_faults_are_found(model: LoadedModel, fault: Callable[[Any], None]) -> None:
    fault(model.upstream.model.talker)
    with pytest.raises(SelfCheckFailed, match="HSA_OVERRIDE_GFX_VERSION"):
        selfcheck.check(model)
