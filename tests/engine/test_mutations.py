"""Faults that were planted: each must turn the comparison with upstream red, or the comparison is worth nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qwen3_tts_service.engine import sampling as draw
from qwen3_tts_service.engine import transformer
from qwen3_tts_service.engine.frame import FrameModel
from qwen3_tts_service.engine.prompt import Prompt
from qwen3_tts_service.engine.reference import ReferenceEngine
from qwen3_tts_service.speech.request import SpeechRequest

from .frame_runs import Run, Voice, alone, compare, prompt_for, upstream_run

#: Text is fed while speaking, so that every part of a frame is at work.
REQUEST = SpeechRequest(
    "Twelve frames and a little more text than that.", "vivian", text_feeding="streaming", max_frames=12
)
BEFORE = SpeechRequest("Another text, spoken in this slot before.", "ryan", max_frames=20)


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> ReferenceEngine:
    return ReferenceEngine.load(tiny_checkpoint, device="cpu", cpu_threads=1)


@pytest.fixture(scope="module")
def expected(engine: ReferenceEngine) -> Run:
    run = upstream_run(engine, REQUEST)
    assert len(run.codes) == 12
    return run


def agree(engine: ReferenceEngine, model: FrameModel, expected: Run) -> None:
    """The comparison under test: the request in a slot that was used before."""
    alone(model, Voice(prompt_for(engine, BEFORE), max_frames=BEFORE.max_frames))
    ours = alone(model, Voice(prompt_for(engine, REQUEST), max_frames=REQUEST.max_frames))
    assert compare(ours, expected).gap is None


@pytest.fixture
def model(engine: ReferenceEngine) -> FrameModel:
    """A copy of its own for every fault."""
    return FrameModel(engine.model, slots=1, positions=128)


def test_without_a_fault_the_comparison_is_green(
    engine: ReferenceEngine, model: FrameModel, expected: Run
) -> None:
    agree(engine, model, expected)


Fault = Callable[[FrameModel, pytest.MonkeyPatch], None]


def _later_rope(stack: transformer.Stack) -> transformer.LayerFunction:
    def layer(x: Tensor, weights: Any, keys: Any, values: Any, cos: Any, sin: Any, *rest: Any) -> Tensor:
        position = rest[0] + 1
        later = stack.weights.cos[position], stack.weights.sin[position]
        return transformer.decoder_layer(x, weights, keys, values, *later, *rest)

    return layer


def rope_off_by_one_while_speaking(model: FrameModel, _: pytest.MonkeyPatch) -> None:
    # Shifting all positions alike changes nothing: rotary embedding is relative. The prompt stays in place.
    model.talker.layer_fn = _later_rope(model.talker)


def rope_off_by_one_in_the_predictor(model: FrameModel, _: pytest.MonkeyPatch) -> None:
    right, later = model.predictor.layer_fn, _later_rope(model.predictor)

    def layer(x: Tensor, *rest: Any) -> Tensor:
        # Its last position has none behind it in the table; its first two tokens come together.
        return (later if x.shape[1] == 1 and int(rest[5][0, 0]) < 15 else right)(x, *rest)

    model.predictor.layer_fn = layer


def _without_norm(name: str) -> Fault:
    def plant(model: FrameModel, patch: pytest.MonkeyPatch) -> None:
        norms = [getattr(layer, name) for layer in model.talker.weights.layers]
        right = transformer.rms_norm

        def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
            return x if any(weight is norm for norm in norms) else right(x, weight, eps)

        patch.setattr(transformer, "rms_norm", rms_norm)

    plant.__name__ = f"missing_{name}"
    return plant


def stale_keys_and_values_after_reuse(model: FrameModel, patch: pytest.MonkeyPatch) -> None:
    prefill, used = model.prefill, set[int]()

    def only_once(slot: int, embeds: Tensor) -> None:
        if slot not in used:
            prefill(slot, embeds)
        used.add(slot)

    patch.setattr(model, "prefill_fn", only_once)


def one_position_too_many_is_seen(model: FrameModel, patch: pytest.MonkeyPatch) -> None:
    right = model.mask
    patch.setattr(model, "mask", lambda position, length: right(position + 1, length))


def codes_of_the_last_request_stay_penalized(model: FrameModel, _: pytest.MonkeyPatch) -> None:
    class Seen(torch.Tensor):
        """Loses what is written to one row, which only admission does."""

        def __setitem__(self, index: Any, value: Any) -> None:
            assert isinstance(index, int)

    model.state.seen = model.state.seen.as_subclass(Seen)


def _always(name: str, value: float) -> Fault:
    def plant(model: FrameModel, patch: pytest.MonkeyPatch) -> None:
        admit = model.admit

        def and_overwrite(slot: int, *rest: Any) -> int:
            fitting = admit(slot, *rest)
            getattr(model.state, name)[slot] = value
            return fitting

        patch.setattr(model, "admit", and_overwrite)

    plant.__name__ = f"{name}_{value:g}"
    return plant


def text_fed_one_step_late(model: FrameModel, patch: pytest.MonkeyPatch) -> None:
    admit = model.admit

    def late(slot: int, prompt: Prompt, *rest: Any) -> int:
        trailing = torch.cat((model.pad[None], prompt.trailing))
        return admit(slot, Prompt(prompt.embeds, trailing, prompt.text_tokens), *rest)

    patch.setattr(model, "admit", late)


def speech_may_end_at_once(model: FrameModel, patch: pytest.MonkeyPatch) -> None:
    right = draw.restrict
    patch.setattr(
        draw, "restrict", lambda logits, **rest: right(logits, **{**rest, "step": rest["step"] + 2})
    )


def control_ids_are_not_suppressed(model: FrameModel, _: pytest.MonkeyPatch) -> None:
    model.suppressed.zero_()


def predictor_reads_the_next_codebooks_table(model: FrameModel, _: pytest.MonkeyPatch) -> None:
    model.inputs = model.inputs[1:] + model.inputs[:1]


def one_codebook_left_out_of_the_sum(model: FrameModel, _: pytest.MonkeyPatch) -> None:
    # The table is shared with upstream; a copy keeps the fault to this model.
    model.embeddings = model.embeddings.clone()
    model.embeddings[14] = 0


FAULTS: list[Fault] = [
    rope_off_by_one_while_speaking,
    rope_off_by_one_in_the_predictor,
    _without_norm("q_norm"),
    _without_norm("k_norm"),
    stale_keys_and_values_after_reuse,
    one_position_too_many_is_seen,
    codes_of_the_last_request_stay_penalized,
    _always("repetition_penalty", 1.0),
    text_fed_one_step_late,
    speech_may_end_at_once,
    control_ids_are_not_suppressed,
    predictor_reads_the_next_codebooks_table,
    one_codebook_left_out_of_the_sum,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found(
    engine: ReferenceEngine,
    model: FrameModel,
    expected: Run,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
) -> None:
    fault(model, monkeypatch)
    with pytest.raises(AssertionError, match=r"frame \d+, codebook \d+"):
        agree(engine, model, expected)
