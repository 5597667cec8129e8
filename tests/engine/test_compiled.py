"""What torch.compile makes of the layers on a CPU: the same speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch._dynamo.utils import counters

from qwen3_tts_service.checkpoints.load import load
from qwen3_tts_service.engine.frame import FrameModel
from qwen3_tts_service.engine.graphs import FrameRunner, Way
from qwen3_tts_service.engine.prompt import PromptBuilder
from qwen3_tts_service.speech.request import Sampling, SpeechRequest

pytestmark = pytest.mark.slow


def test_compiled_frames_speak_the_codes_of_plain_ones(tiny_checkpoint: Path) -> None:
    model = load(tiny_checkpoint, device="cpu")
    prompt = PromptBuilder(model).build(SpeechRequest("Compiled or not.", voice="ryan", language="english"))
    spoken = []
    ways: tuple[Way, ...] = ("compiled", "eager")
    for way in ways:
        runner = FrameRunner(FrameModel(model, slots=2, positions=256), fastest=way)
        assert runner.ways() == {1: way, 2: way}, runner.reasons()
        runner.admit(0, prompt, Sampling(greedy=True), 0, 100)
        runner.admit(1, prompt, Sampling(), 7, 100)
        spoken.append(np.stack([runner.launch(2, [True, True]).read().codes for _ in range(40)]))
    np.testing.assert_array_equal(*spoken)


def test_a_stack_is_compiled_once_for_each_number_of_rows_and_tokens(tiny_checkpoint: Path) -> None:
    """Each version costs half a minute of the first start on two cores."""

    def versions() -> int:
        return counters["stats"]["unique_graphs"]

    model = load(tiny_checkpoint, device="cpu")
    prompt = PromptBuilder(model).build(SpeechRequest("Once only.", voice="ryan", language="english"))
    before = versions()
    runner = FrameRunner(FrameModel(model, slots=2, positions=256))
    # Talker: 1 and 2 rows of one token. Code predictor: as many of two tokens, its first step, and of one.
    assert versions() - before == 6
    runner.admit(0, prompt, Sampling(greedy=True), 0, 200)
    # To where attention reads 256 positions instead of 128.
    for _ in range(130):
        runner.launch(1, [True]).read()
    assert versions() - before == 6
