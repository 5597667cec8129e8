"""Scores on upstream's codes: they hold at both ends of a slot, and a planted fault is found wherever it begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qwen3_tts_service.bench import parity, schedules
from qwen3_tts_service.bench.observation import endless
from qwen3_tts_service.bench.report import Spread
from qwen3_tts_service.bench.requests import spoken_by
from qwen3_tts_service.bench.schedules import CountingRunner
from qwen3_tts_service.checkpoints.load import LoadedModel, load
from qwen3_tts_service.engine import transformer
from qwen3_tts_service.engine.frame import FrameModel
from qwen3_tts_service.engine.prompt import Prompt, PromptBuilder
from qwen3_tts_service.errors import InputTooLong

FRAMES = 4
#: More than a request may take.
POSITIONS = 1664
#: Between the two prompts' frames.
FAR = 1000

Speech = tuple[Prompt, parity._Upstreams]


class Spoken:
    """A model, and what upstream says at the beginning and at the end of a slot."""

    def __init__(self, checkpoint: Path, dtype: str) -> None:
        self.dtype = dtype
        with endless():
            self.model: LoadedModel = load(checkpoint, device="cpu", dtype=dtype, cpu_threads=1)
            self.builder = PromptBuilder(self.model)
            asked = spoken_by(self.model.checkpoint, "A few words.", max_frames=FRAMES)
            self.near: Speech = (self.builder.build(asked), parity._upstreams(self.model, asked))
            self.far: Speech = parity._at_the_end(self.model, self.builder, POSITIONS, FRAMES)

    def runner(self) -> CountingRunner:
        with endless():
            return CountingRunner(FrameModel(self.model, slots=1, positions=POSITIONS))

    def compared(self, runner: CountingRunner, speech: Speech) -> dict[str, Any]:
        return dict(parity._scores_compared(self.dtype, runner, *speech))


@pytest.fixture(scope="module")
def spoken(tiny_checkpoint: Path) -> Spoken:
    return Spoken(tiny_checkpoint, "fp32")


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def either(tiny_checkpoint: Path, spoken: Spoken, request: pytest.FixtureRequest) -> Spoken:
    return spoken if request.param == "fp32" else Spoken(tiny_checkpoint, request.param)


def choose_the_second_best(runner: CountingRunner) -> None:
    """No code is upstream's from the first one on."""
    runner.model.sample_fn = lambda logits, **_: logits.argsort(dim=-1)[:, -2]


@pytest.mark.parametrize("choose", [None, choose_the_second_best])
def test_scores_hold_at_both_ends_of_a_slot_whatever_is_chosen(
    either: Spoken, without_compiling: None, choose: Callable[[CountingRunner], None] | None
) -> None:
    runner = either.runner()
    if choose:
        choose(runner)
    for speech in (either.near, either.far):
        row = either.compared(runner, speech)
        assert (row["passed"], row["frames"]) == ("yes", FRAMES)
        assert isinstance(row["error"], Spread)
        assert row["error"].count == 16 * FRAMES
        if choose:
            assert (row["equal"], row["first_difference"]) == (0, 0)
    first = len(either.far[0].embeds) - 1
    # A word of the story and its space are at most nine tokens of a synthetic checkpoint.
    assert POSITIONS - 9 <= first + FRAMES <= POSITIONS
    assert row["what"].endswith(f"positions {first} to {first + FRAMES - 1}")


def test_everything_is_afterwards_as_it_was(spoken: Spoken, without_compiling: None) -> None:
    runner = spoken.runner()
    prompt, expected = spoken.near
    assert spoken.compared(runner, spoken.near)["equal"] == FRAMES
    again = schedules.alone(runner, schedules.request(prompt, parity._GREEDY, 0, FRAMES))
    assert (again == expected.codes).all()
    with pytest.raises(InputTooLong):
        spoken.builder.check(spoken_by(spoken.model.checkpoint, "x" * (POSITIONS - 100)))


Fault = Callable[[CountingRunner, pytest.MonkeyPatch], None]


def rope_is_off_by_one_far_away(runner: CountingRunner, _: pytest.MonkeyPatch) -> None:
    weights = runner.model.talker.weights
    for table in (weights.cos, weights.sin):
        table[FAR:] = table[FAR - 1 : -1].clone()


def a_part_is_not_attended_to(_: CountingRunner, patch: pytest.MonkeyPatch) -> None:
    right = transformer.attention

    def attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        if mask.shape[-1] > FAR:
            mask = mask.clone()
            mask[..., FAR : FAR + 128] = -torch.inf
        return right(query, keys, values, mask)

    patch.setattr(transformer, "attention", attention)


def the_prompt_of_before_stays(runner: CountingRunner, patch: pytest.MonkeyPatch) -> None:
    right = runner.model.prefill

    def only_short(slot: int, embeds: Tensor) -> None:
        if len(embeds) < FAR:
            right(slot, embeds)

    patch.setattr(runner.model, "prefill_fn", only_short)


def _left_by_the_second_frame(name: str, value: float) -> Fault:
    def plant(runner: CountingRunner, patch: pytest.MonkeyPatch) -> None:
        launch, state = runner.launch, runner.model.state

        def and_write(*arguments: Any) -> Any:
            ticket = launch(*arguments)
            position = int(state.position[0]) - 1
            if int(state.step[0]) == 2 and position > FAR:
                runner.model.talker.cache.whole[:, :, 0, :, position] = value
            return ticket

        patch.setattr(runner, "launch", and_write)

    plant.__name__ = name
    return plant


FAULTS: tuple[Fault, ...] = (
    rope_is_off_by_one_far_away,
    a_part_is_not_attended_to,
    the_prompt_of_before_stays,
    _left_by_the_second_frame("keys_and_values_of_a_frame_are_lost", 0.0),
    _left_by_the_second_frame("not_a_number", float("nan")),
)


@pytest.fixture(params=FAULTS, ids=lambda fault: fault.__name__)
def faulty(
    spoken: Spoken, without_compiling: None, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> CountingRunner:
    runner = spoken.runner()
    request.param(runner, monkeypatch)
    return runner


def test_a_fault_far_away_is_found_behind_other_codes(spoken: Spoken, faulty: CountingRunner) -> None:
    choose_the_second_best(faulty)
    near, far = (spoken.compared(faulty, speech) for speech in (spoken.near, spoken.far))
    assert (near["passed"], near["first_difference"]) == ("yes", 0)
    assert (far["passed"], far["first_difference"]) == ("NO", 0)
