"""The compiled kernels: what they compute, and what happens where they cannot be had."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from host_needs import needs_compiler
from qwen3_tts_service.codec import kernels as module
from qwen3_tts_service.codec.kernels import Kernels, PackedConvolution
from qwen3_tts_service.codec.streaming import StreamingDecoder
from qwen3_tts_service.codec.weights import Convolution
from qwen3_tts_service.native import NotCompiled

from . import undivided, upstream_decoder

Changed = Callable[[str, str], Path]


@pytest.fixture
def changed_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Changed:
    """Plants another text in the kernels' source and gives a fresh directory to build it in."""

    def change(old: str, new: str) -> Path:
        text = module._SOURCE.read_text(encoding="utf-8")
        assert old in text
        source = tmp_path / "kernels.cpp"
        source.write_text(text.replace(old, new), encoding="utf-8")
        monkeypatch.setattr(module, "_SOURCE", source)
        return tmp_path / "built"

    return change


@needs_compiler
@pytest.mark.parametrize("taps", [1, 2, 7])
@pytest.mark.parametrize(("rows", "channels", "out"), [(1, 8, 1), (13, 96, 200), (300, 400, 48)])
def test_a_product_is_the_exact_one_rounded(
    kernels: Path, taps: int, rows: int, channels: int, out: int
) -> None:
    draw = torch.Generator().manual_seed(taps)
    weight = torch.randn(out, taps * channels, generator=draw) / (taps * channels) ** 0.5
    bias = torch.randn(out, generator=draw)
    convolution = Convolution(weight, bias, taps, dilation=3)
    x = torch.randn(3, convolution.history + rows, channels, generator=draw)
    got = PackedConvolution(convolution, Kernels(torch.float32, kernels))(x)
    assert got.shape == (3, rows, out)
    exact = replace(convolution, weight=weight.double(), bias=bias.double())(x.double())
    # Sums of 2,800 products of this size, in whatever order the processor adds them up.
    torch.testing.assert_close(got.double(), exact, atol=2e-5, rtol=0)


@needs_compiler
def test_built_once(kernels: Path) -> None:
    Kernels(torch.float32, kernels)
    built = {file: file.stat().st_mtime_ns for file in kernels.glob("*.so")}
    assert len(built) == 1
    Kernels(torch.float32, kernels)
    assert {file: file.stat().st_mtime_ns for file in kernels.glob("*.so")} == built


@needs_compiler
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tap * c.dilation * row + k", "tap * row + k"),
        ("vec v = load(sum) + load(c.bias + j);", "vec v = load(sum);"),
    ],
)
def test_kernels_that_compute_something_else_are_not_used(
    changed_source: Changed, old: str, new: str
) -> None:
    with pytest.raises(NotCompiled, match="off by"):
        Kernels(torch.float32, changed_source(old, new))


def test_no_compiler_is_said_and_the_decoder_still_decodes(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    upstream = upstream_decoder(tiny_checkpoint)
    decoder = StreamingDecoder(upstream, kernels=tmp_path)
    assert decoder.way == "eager"
    assert "no-such-compiler" in decoder.reason
    codes = torch.randint(0, 2048, (1, 16, 3), generator=torch.Generator().manual_seed(1))
    wanted, bound = undivided(upstream, codes)
    assert (decoder.decode(codes, decoder.new_state()) - wanted).abs().max() <= bound


@needs_compiler
def test_a_compiler_that_fails_is_quoted(changed_source: Changed) -> None:
    with pytest.raises(NotCompiled, match=r"failed.*no_such_type"):
        Kernels(torch.float32, changed_source("namespace {", "no_such_type x;\nnamespace {"))


@needs_compiler
def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotCompiled, match="could not be built"):
        Kernels(torch.float32, tmp_path / "file" / "below")


def test_bfloat16_is_near_and_says_its_way(tiny_checkpoint: Path, kernels: Path) -> None:
    """Opt-in: the same sound with a noise floor; 20 dB is what bfloat16 throughout would already reach."""
    upstream = upstream_decoder(tiny_checkpoint)
    codes = torch.randint(0, 2048, (1, 16, 20), generator=torch.Generator().manual_seed(2))
    wanted, _ = undivided(upstream, codes)
    decoder = StreamingDecoder(upstream, dtype=torch.bfloat16, kernels=kernels)
    assert decoder.way == "compiled" or decoder.reason
    state = decoder.new_state()
    got = torch.cat([decoder.decode(chunk, state) for chunk in codes.split([1, 2, 4, 8, 5], dim=-1)], dim=-1)
    assert got.dtype == torch.float32
    noise = (got - wanted).square().mean()
    assert 10 * torch.log10(wanted.square().mean() / noise) > 20
