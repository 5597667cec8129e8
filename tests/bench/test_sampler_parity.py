from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qwen3_tts_service.bench import sampler_parity
from qwen3_tts_service.checkpoints.load import load
from qwen3_tts_service.engine.frame import FrameModel

DRAWS = 3000


@pytest.fixture(scope="module")
def frames(tiny_checkpoint: Path) -> FrameModel:
    return FrameModel(load(tiny_checkpoint, device="cpu"), slots=50, positions=128, max_trailing=1)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_parity, "_ROUNDS", 3)


@pytest.fixture
def draw() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("codebook", [0, 3])
def test_plain_torchs_own_sampling_holds(frames: FrameModel, draw: torch.Generator, codebook: int) -> None:
    plain = partial(sampler_parity.plain, frames)
    row = sampler_parity.beside_plain(frames, plain, codebook, draw)
    assert (row["equal"], row["draws"], row["passed"]) == (150, 150, "yes")
    row = sampler_parity.frequencies(frames, plain, codebook, draw, draws=DRAWS)
    assert (row["draws"], row["passed"]) == (DRAWS, "yes")


@pytest.mark.parametrize(
    "setting", ["temperature", "top_k", "top_p", "repetition_penalty", "seed", "step", "greedy", "seen"]
)
def test_a_sampler_that_does_not_hear_of_a_setting_is_found(
    frames: FrameModel, draw: torch.Generator, setting: str
) -> None:
    """It has every row take the setting of the row before."""

    def deaf(logits: Tensor, codebook: int) -> Tensor:
        values = getattr(frames.state, setting)
        kept = values.clone()
        values.copy_(kept.roll(1, 0))
        codes = sampler_parity.plain(frames, logits, codebook)
        values.copy_(kept)
        return codes

    assert sampler_parity.beside_plain(frames, deaf, 0, draw)["passed"] == "NO"


def test_a_draw_that_prefers_some_codes_is_found(frames: FrameModel, draw: torch.Generator) -> None:
    def biased(logits: Tensor, codebook: int) -> Tensor:
        return sampler_parity.plain(frames, logits + 0.5 * (torch.arange(logits.shape[1]) % 2), codebook)

    assert sampler_parity.frequencies(frames, biased, 1, draw, draws=DRAWS)["passed"] == "NO"
