from __future__ import annotations

import pytest

from qwen3_tts_service.bench.load import Alone
from qwen3_tts_service.bench.observation import FrameGaps

ALONE = Alone("text", {64: [0.008] * 10 + [0.010] * 10, 32: [0.006] * 20, 16: [0.005] * 20})


def test_frames_alone_are_those_of_the_batches_that_the_server_had() -> None:
    like = ALONE.like(FrameGaps({64: [0.1] * 30, 32: [0.1] * 10}), 10)
    assert like.count == 40
    assert (like.p05, like.median, like.p95) == pytest.approx((0.006, 0.008, 0.008))


def test_only_frames_that_its_streams_reached_count() -> None:
    gaps = FrameGaps({64: [0.1] * 20})
    assert ALONE.like(gaps, 10).p95 == pytest.approx(0.008)
    assert ALONE.like(gaps, 20).p95 == pytest.approx(0.010)


@pytest.mark.parametrize(
    ("rows", "seconds"), [(64, 0.008), (48, 0.006), (32, 0.006), (20, 0.005), (3, 0.005)]
)
def test_a_batch_size_that_was_not_measured_counts_as_the_next_smaller_one(rows: int, seconds: float) -> None:
    assert ALONE.like(FrameGaps({rows: [0.1]}), 10).median == pytest.approx(seconds)
