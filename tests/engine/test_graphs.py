"""The ways of computing a frame: a wrong or a broken one is not taken, and it is told why."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qwen3_tts_service.checkpoints.load import LoadedModel, load
from qwen3_tts_service.cores import cores
from qwen3_tts_service.engine import graphs, verification
from qwen3_tts_service.engine.frame import FrameModel
from qwen3_tts_service.engine.graphs import FrameRunner, batch_sizes
from qwen3_tts_service.engine.prefill import lengths
from qwen3_tts_service.engine.transformer import LayerFunction, decoder_layer
from qwen3_tts_service.errors import SelfCheckFailed


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> LoadedModel:
    return load(tiny_checkpoint, device="cpu")


def frames(model: LoadedModel, slots: int = 2) -> FrameModel:
    return FrameModel(model, slots=slots, positions=128)


def layers(change: Callable[[Tensor], Tensor], only: str = "") -> Callable[..., LayerFunction]:
    """In place of the compiler: makes layers whose output is changed."""

    def compiled_layer(name: str, *, any_length: bool = False) -> LayerFunction:
        def layer(*arguments: Tensor) -> Tensor:
            return change(decoder_layer(*arguments))  # type: ignore[arg-type]

        return layer if only in name else decoder_layer

    return compiled_layer


@pytest.mark.parametrize("slots", [1, 2, 3, 8, 33, 48, 63, 64])
@pytest.mark.parametrize("positions", [256, 257, 2048, 2049, 4096, 32768])
def test_no_settings_ask_for_more_than_twelve_shapes(slots: int, positions: int) -> None:
    """Each is compiled, captured and verified at every start."""
    batches, prompts = batch_sizes(slots), lengths(positions)
    assert len(batches) + len(prompts) <= 12
    assert max(batches) == slots
    assert max(prompts) == positions
    assert [*prompts] == sorted(set(prompts))
    assert all(later <= 4 * earlier for earlier, later in pairwise(prompts))


def test_layers_that_compute_the_same_are_taken(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "compiled_layer", layers(lambda x: x * (1 + 1e-5)))
    runner = FrameRunner(frames(model))
    assert runner.ways() == {1: "compiled", 2: "compiled"}
    assert runner.reasons() == {}


@pytest.mark.parametrize("stack", ["talker", "predictor"])
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x * 1.05,
        lambda x: x.flip(-1),
        lambda x: torch.full_like(x, torch.nan),
        lambda x: x + 0.1 * torch.sin(torch.arange(x.shape[-1])),
    ],
    ids=["scaled", "reversed", "nan", "added"],
)
def test_a_wrong_kernel_is_found_and_not_taken(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor], stack: str
) -> None:
    monkeypatch.setattr(graphs, "compiled_layer", layers(change, stack))
    runner = FrameRunner(frames(model))
    assert runner.ways() == {1: "eager", 2: "eager"}
    for batch in (1, 2):
        assert "computes something else than plain torch" in runner.reasons()[batch]


def test_a_row_that_a_wrong_kernel_forgets_is_found(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_but_the_last(x: Tensor) -> Tensor:
        return x if len(x) == 1 else torch.cat((x[:-1], torch.zeros_like(x[-1:])))

    monkeypatch.setattr(graphs, "compiled_layer", layers(all_but_the_last))
    runner = FrameRunner(frames(model))
    assert runner.ways() == {1: "compiled", 2: "eager"}
    assert "in row 1 of 2" in runner.reasons()[2]


def test_a_compiler_that_fails_costs_speed_only(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled_layer(name: str, *, any_length: bool = False) -> LayerFunction:
        raise OSError("no C++ compiler\nwas found")

    monkeypatch.setattr(graphs, "compiled_layer", compiled_layer)
    runner = FrameRunner(frames(model))
    assert runner.ways() == {1: "eager", 2: "eager"}
    assert runner.reasons()[1] == "not compiled: OSError: no C++ compiler was found"


def test_a_wrong_choice_of_code_is_found(model: LoadedModel) -> None:
    right = frames(model, 1)
    expected = verification.expected(right, 128)
    wrong = frames(model, 1)
    sample = wrong.sample_fn
    wrong.sample_fn = lambda logits, **settings: (sample(logits, **settings) + 1) % 2048
    with pytest.raises(SelfCheckFailed, match="choice of codebook 0"):
        verification.verify(wrong, wrong.frame, 1, 128, expected)


@pytest.mark.parametrize("fault", [0.0, 0.05], ids=["right", "wrong"])
def test_a_prompt_read_wrongly_is_found(model: LoadedModel, fault: float) -> None:
    tested = frames(model, 1)

    def prefill(slot: int, embeds: Tensor) -> None:
        tested.prefill(slot, embeds * (1 + fault * torch.arange(len(embeds))[:, None]))
        tested.talker.cache.whole[:, 0] *= 1 + fault

    with torch.inference_mode():
        if not fault:
            verification.verify_prefill(tested, prefill, 64)
            return
        with pytest.raises(SelfCheckFailed, match="64 positions"):
            verification.verify_prefill(tested, prefill, 64)


def test_a_prompt_that_is_not_read_at_all_is_found(model: LoadedModel) -> None:
    tested = frames(model, 1)
    with torch.inference_mode(), pytest.raises(SelfCheckFailed, match="64 positions"):
        verification.verify_prefill(tested, lambda slot, embeds: None, 64)


def test_no_way_is_left_with_a_slot_that_advances(model: LoadedModel) -> None:
    runner = FrameRunner(frames(model), fastest="eager")
    before = runner.model.state.step.clone()
    runner.launch(2, [False, False]).read()
    assert torch.equal(runner.model.state.step, before)


def test_batch_sizes_are_powers_of_two_and_all_slots(model: LoadedModel) -> None:
    assert FrameRunner(frames(model, 6), fastest="eager").batch_sizes == (1, 2, 4, 6)


def test_one_prompt_serves_the_verification_of_every_batch_size(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tested, read = frames(model, 6), []
    prefill = tested.prefill
    monkeypatch.setattr(tested, "prefill", lambda *prompt: read.append(prompt) or prefill(*prompt))
    assert FrameRunner(tested, fastest="eager").ways() == dict.fromkeys((1, 2, 4, 6), "eager")
    assert len(read) == 1


def test_on_a_cpu_a_frame_waits_while_others_have_the_cores(model: LoadedModel) -> None:
    runner, computed = FrameRunner(frames(model), fastest="eager"), threading.Event()

    def launch() -> None:
        runner.launch(1, [False]).read()
        computed.set()

    thread = threading.Thread(target=launch)
    with cores.turn():
        thread.start()
        assert not computed.wait(0.3)
    assert computed.wait(10.0)
    thread.join()
