"""What torch.compile makes of the layers on a CPU: the same speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

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
