"""The tool that times faster-qwen3-tts, on something that takes as long as it is told to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loose_module import loose_module

ROOT = Path(__file__).parents[2]
#: Seconds on a clock that only the model below moves.
PROMPT_S, FRAME_S, CHUNK_S = 0.5, 0.02, 0.07


class Timed:
    def __init__(self) -> None:
        self.now = 0.0
        self.lost = 0

    def generate_custom_voice(self, *, max_new_tokens: int, **_asked: Any) -> tuple[list[Any], int]:
        self.now += PROMPT_S + FRAME_S * max_new_tokens
        return [np.zeros(1920 * (max_new_tokens - self.lost), np.float32)], 24000

    def generate_custom_voice_streaming(
        self, *, max_new_tokens: int, chunk_size: int, **_asked: Any
    ) -> Iterator[Any]:
        for _ in range(0, max_new_tokens, chunk_size):
            self.now += CHUNK_S
            yield np.zeros(1920 * chunk_size, np.float32), 24000


@pytest.fixture
def model() -> Timed:
    return Timed()


@pytest.fixture
def tool(model: Timed, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = loose_module(ROOT / "tools" / "time_faster_qwen3_tts.py")
    monkeypatch.setattr(module.time, "perf_counter", lambda: model.now)
    monkeypatch.setattr(module.importlib.metadata, "version", lambda name: "0.5.4")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return module


def test_a_frame_is_what_more_frames_take_longer(tool: Any, model: Timed) -> None:
    report = tool.measure(model, "ryan", text="Two words", frames=40, repeats=3, chunk=4)
    [row] = report.tables[0].rows
    assert row["frame_ms"].median == pytest.approx(20.0)
    assert row["whole_ms"].median == pytest.approx(20.0 + 500 / 40)
    assert row["first_ms"].median == pytest.approx(70.0)


def test_another_length_than_asked_for_is_no_measurement(tool: Any, model: Timed) -> None:
    model.lost = 1
    with pytest.raises(ValueError, match="are not 10 frames"):
        tool.measure(model, "ryan", text="Two words", frames=40, repeats=1, chunk=4)
