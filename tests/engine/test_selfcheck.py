"""The numeric self-check: passes on a sound device, turns red on planted faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3_tts_service.checkpoints.load import LoadedModel, load
from qwen3_tts_service.engine import selfcheck
from qwen3_tts_service.engine.frame import FrameModel
from qwen3_tts_service.engine.linear import Weights
from qwen3_tts_service.errors import SelfCheckFailed


@pytest.fixture
def model(tiny_checkpoint: Path) -> LoadedModel:
    """A bf16 copy of its own for each test: the CPU plays the device."""
    return load(tiny_checkpoint, device="cpu", dtype="bf16", cpu_threads=1)


def frames_of(model: LoadedModel, weights: Weights = "bf16") -> FrameModel:
    """As the service builds it: upstream's layers are gone."""
    return FrameModel(model, slots=2, positions=64, weights=weights, release_upstream=True)


def test_bf16_passes_with_room(model: LoadedModel) -> None:
    report = selfcheck.check(model)
    assert 0.001 < report.max_error < report.tolerance / 3


def test_fp32_passes_closely(tiny_checkpoint: Path) -> None:
    report = selfcheck.check(load(tiny_checkpoint, device="cpu", dtype="fp32", cpu_threads=1))
    assert report.max_error < 1e-4


def test_the_engines_frame_passes(model: LoadedModel) -> None:
    frames = frames_of(model)
    sample = frames.sample_fn
    report = selfcheck.check(model, frames)
    assert 0.001 < report.max_error < report.tolerance / 3
    assert frames.sample_fn is sample
    assert not frames.state.active.any()


def test_the_engines_frame_passes_closely_in_fp32(tiny_checkpoint: Path) -> None:
    model = load(tiny_checkpoint, device="cpu", dtype="fp32", cpu_threads=1)
    assert selfcheck.check(model, frames_of(model)).max_error < 1e-4


def test_rounded_weights_pass_with_room(model: LoadedModel) -> None:
    report = selfcheck.check(model, frames_of(model, "int8"))
    assert 0.001 < report.max_error < report.tolerance / 3


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


def rope_off_by_one(frames: FrameModel) -> None:
    frames.talker.weights.sin = frames.talker.weights.sin.roll(1, dims=0)


def no_head_norm(frames: FrameModel) -> None:
    frames.predictor.weights.layers[0].q_norm.mul_(3)


def another_codebooks_head(frames: FrameModel) -> None:
    frames.heads[3] = frames.heads[4]


def another_codebooks_table(frames: FrameModel) -> None:
    frames.inputs[7] = frames.inputs[8]


def keys_of_another_layer(frames: FrameModel) -> None:
    frames.talker.cache.keys[1] = frames.talker.cache.keys[0]


@pytest.mark.parametrize(
    "fault",
    [rope_off_by_one, no_head_norm, another_codebooks_head, another_codebooks_table, keys_of_another_layer],
)
def test_faults_planted_in_the_engine_are_found(
    model: LoadedModel, fault: Callable[[FrameModel], None]
) -> None:
    frames = frames_of(model)
    fault(frames)
    with pytest.raises(SelfCheckFailed, match="HSA_OVERRIDE_GFX_VERSION"):
        selfcheck.check(model, frames)
