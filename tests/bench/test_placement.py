"""Which settings are recommended, and why."""

from __future__ import annotations

import pytest

from qwen3_tts_service.bench.placement import Outcome, Placement, advice, placements
from qwen3_tts_service.bench.statistics import Spread
from qwen3_tts_service.errors import EngineError


def outcome(codec_device: str, codec_dtype: str, warm_s: float, first_s: float, failure: str = "") -> Outcome:
    placement = Placement("cuda", "bf16", codec_device, codec_dtype)  # type: ignore[arg-type]
    return Outcome(
        placement,
        start_s=1.0,
        cold_s=2.0,
        warm_s=Spread(warm_s, warm_s, warm_s, 3),
        first_s=Spread(first_s, first_s, first_s, 3),
        failure=failure,
    )


def test_a_host_without_a_gpu_has_half_the_placements() -> None:
    assert len(placements("cuda")) == 8
    assert {placement.codec_device for placement in placements("cpu")} == {"cpu"}
    assert len(placements("cpu")) == 4


def test_a_precision_that_was_named_is_not_questioned() -> None:
    assert {placement.dtype for placement in placements("cuda")} == {"bf16", "fp32"}
    assert {placement.dtype for placement in placements("cuda", "fp32")} == {"fp32"}
    assert len(placements("cuda", "fp32")) == 4


def test_the_fastest_exact_one_is_recommended_and_bf16_only_told_of() -> None:
    tried = [
        outcome("cpu", "fp32", 2.0, 0.03),
        outcome("gpu", "fp32", 1.0, 0.05),
        outcome("gpu", "bf16", 0.5, 0.04),
    ]
    lines = advice(tried, 28.0)
    assert lines[:4] == [
        "QWEN3_TTS_DEVICE=cuda",
        "QWEN3_TTS_DTYPE=bf16",
        "QWEN3_TTS_CODEC_DEVICE=gpu",
        "QWEN3_TTS_CODEC_DTYPE=fp32",
    ]
    assert lines[4].startswith("#")
    assert "2.00 times as fast, 28 dB SNR" in lines[4]


def test_of_equals_the_one_that_sounds_first_is_taken() -> None:
    lines = advice([outcome("gpu", "fp32", 1.0, 0.05), outcome("cpu", "fp32", 1.04, 0.03)], 28.0)
    assert "QWEN3_TTS_CODEC_DEVICE=cpu" in lines
    lines = advice([outcome("gpu", "fp32", 1.0, 0.05), outcome("cpu", "fp32", 1.06, 0.03)], 28.0)
    assert "QWEN3_TTS_CODEC_DEVICE=gpu" in lines


@pytest.mark.parametrize("failure", ["out of memory"])
def test_what_failed_is_not_recommended(failure: str) -> None:
    tried = [outcome("gpu", "fp32", 0.1, 0.01, failure), outcome("cpu", "fp32", 1.0, 0.03)]
    assert "QWEN3_TTS_CODEC_DEVICE=cpu" in advice(tried, 28.0)
    with pytest.raises(EngineError, match=r"codec on gpu in fp32: out of memory$"):
        advice(tried[:1], 28.0)
