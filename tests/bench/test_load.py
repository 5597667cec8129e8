from __future__ import annotations

from pathlib import Path

import pytest

from qwen3_tts_service.bench import load
from qwen3_tts_service.bench.load import Alone
from qwen3_tts_service.bench.observation import FrameGaps
from qwen3_tts_service.bench.requests import spoken_by
from qwen3_tts_service.checkpoints.load import load as load_checkpoint
from qwen3_tts_service.engine.prompt import PromptBuilder
from qwen3_tts_service.errors import EngineError

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


def test_frames_alone_are_fed_a_clones_text_as_the_service_feeds_it(base_checkpoint: Path) -> None:
    """Word by word: a prompt that holds the text would make each frame alone longer than the service's."""
    model = load_checkpoint(base_checkpoint, device="cpu", cpu_threads=1)
    builder = PromptBuilder(model)
    text, prompt = load._long_enough(builder, model.checkpoint, 40)
    whole = builder.build(spoken_by(model.checkpoint, text))
    assert len(prompt.embeds) < len(whole.embeds)
    assert len(prompt.trailing) > len(whole.trailing)


class Telling:
    """A server that answers a scrape with ``metrics``."""

    def __init__(self, metrics: bytes) -> None:
        self._metrics = metrics

    def get(self, path: str) -> tuple[int, bytes]:
        assert path == "/metrics"
        return 200, self._metrics


def test_frames_that_wait_for_the_codec_are_read_from_a_scrape() -> None:
    metrics = (
        b"# HELP qwen3_tts_codec_backlog_frames Frames\nqwen3_tts_codec_backlog_frames 15232.0\nother 1.0\n"
    )
    assert load._waiting(Telling(metrics)) == 15232  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="codec_backlog"):
        load._waiting(Telling(b"other 1.0\n"))  # type: ignore[arg-type]
