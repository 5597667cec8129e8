"""The CPU's float32 product with weights that stay bfloat16 in memory: the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from host_needs import needs_compiler
from qwen3_tts_service.checkpoints.load import LoadedModel, load
from qwen3_tts_service.engine import linear as matrices
from qwen3_tts_service.engine import widening as module
from qwen3_tts_service.engine.frame import FrameModel
from qwen3_tts_service.engine.graphs import FrameRunner
from qwen3_tts_service.engine.prompt import PromptBuilder
from qwen3_tts_service.engine.widening import WidenedMatrix, Widening, product
from qwen3_tts_service.native import NotCompiled
from qwen3_tts_service.speech.request import Sampling, SpeechRequest

from .frame_runs import Voice, alone


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> LoadedModel:
    return load(tiny_checkpoint, device="cpu")


def bfloat(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16().float()


@needs_compiler
@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (5, 17), (1, 300)])
@pytest.mark.parametrize(("out", "size"), [(1, 32), (6, 64), (515, 1024)])
def test_the_product_is_float32s(directory: Path, shape: tuple[int, ...], out: int, size: int) -> None:
    weight = bfloat(out, size)
    x = torch.randn(*shape, size, generator=torch.Generator().manual_seed(1))
    matrix = Widening(directory).pack(weight)
    assert matrix is not None
    got = matrices.linear(x, matrix)
    assert got.shape == (*shape, out)
    torch.testing.assert_close(got.double(), x.double() @ weight.double().T, atol=1e-4, rtol=0)


@needs_compiler
def test_a_row_is_the_same_bit_for_bit_in_any_batch(directory: Path) -> None:
    matrix = Widening(directory).pack(bfloat(130, 512))
    assert matrix is not None
    x = torch.randn(45, 512, generator=torch.Generator().manual_seed(2))
    whole = product(x, matrix)
    for rows in (1, 2, 3, 4, 5, 7, 11, 31):
        assert torch.equal(product(x[:rows], matrix), whole[:rows])


@needs_compiler
def test_rows_between_gaps_and_threads_change_nothing(directory: Path) -> None:
    matrix = Widening(directory).pack(bfloat(37, 64))
    assert matrix is not None
    wide = torch.randn(4, 2, 64, generator=torch.Generator().manual_seed(3))
    expected = product(wide[:, 1].contiguous(), matrix)
    assert torch.equal(product(wide[:, 1], matrix), expected)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(product(wide[:, 1], matrix), expected)
    finally:
        torch.set_num_threads(threads)


@needs_compiler
@pytest.mark.parametrize(
    "weight",
    [torch.full((4, 64), 0.1), bfloat(4, 40), bfloat(4, 64).bfloat16()],
    ids=["float32", "odd", "bf16"],
)
def test_other_weights_are_left_to_others(directory: Path, weight: torch.Tensor) -> None:
    assert Widening(directory).pack(weight) is None
    assert not isinstance(matrices.laid_out(weight, "bf16", Widening(directory)), WidenedMatrix)


@needs_compiler
def test_rows_that_do_not_fit_are_refused(directory: Path) -> None:
    matrix = Widening(directory).pack(bfloat(4, 64))
    assert matrix is not None
    for x in (torch.zeros(2, 96), torch.zeros(2, 64, dtype=torch.bfloat16)):
        with pytest.raises(ValueError, match="packed matrix"):
            product(x, matrix)


@needs_compiler
@pytest.mark.parametrize(
    ("old", "new"), [("load(x + r * in + k + LANES)", "load(x + r * in + k)"), ("v << 16", "v << 15")]
)
def test_a_kernel_that_computes_something_else_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, old: str, new: str
) -> None:
    text = module._SOURCE.read_text(encoding="utf-8")
    assert old in text
    source = tmp_path / "widening.cpp"
    source.write_text(text.replace(old, new), encoding="utf-8")
    monkeypatch.setattr(module, "_SOURCE", source)
    with pytest.raises(NotCompiled, match="off by"):
        Widening(tmp_path / "built")


@needs_compiler
def test_traced_as_torch_compile_does_it(directory: Path) -> None:
    matrix = Widening(directory).pack(bfloat(96, 64))
    assert matrix is not None
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(4))
    traced = torch.compile(matrices.linear, fullgraph=True, backend="aot_eager")
    assert torch.equal(traced(x, matrix), matrices.linear(x, matrix))


@needs_compiler
def test_speech_is_that_of_plain_weights(model: LoadedModel, directory: Path) -> None:
    prompt = PromptBuilder(model).build(SpeechRequest("Half the bytes.", voice="ryan", language="english"))
    plain = FrameModel(model, slots=2, positions=128)
    widened = FrameModel(model, slots=2, positions=128, kernels=directory)
    assert widened.slower_because == ""
    every = [widened.head, *widened.heads]
    for stack in (widened.talker, widened.predictor):
        for layer in stack.weights.layers:
            every += [layer.qkv, layer.output, layer.gate_up, layer.down]
    assert all(isinstance(matrix, WidenedMatrix) for matrix in every)
    for sampling in (Sampling(greedy=True), Sampling()):
        voice = Voice(prompt, sampling, max_frames=40)
        ours, theirs = alone(widened, voice), alone(plain, voice)
        assert torch.equal(torch.as_tensor(ours.codes), torch.as_tensor(theirs.codes))


def test_no_compiler_is_said_and_frames_are_made(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    runner = FrameRunner(FrameModel(model, slots=2, positions=128, kernels=tmp_path), fastest="eager")
    assert runner.ways() == {1: "eager", 2: "eager"}
    assert set(runner.reasons()) == {1, 2}
    assert all("no-such-compiler" in reason for reason in runner.reasons().values())
