"""What torch.compile makes of the layers on a CPU: the same speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch._dynamo.utils import counters

from qwen3_tts_service.checkpoints.load import LoadedModel, load
from qwen3_tts_service.engine.frame import FrameModel
from qwen3_tts_service.engine.graphs import FrameRunner
from qwen3_tts_service.engine.prompt import PromptBuilder
from qwen3_tts_service.speech.request import Sampling, SpeechRequest

pytestmark = pytest.mark.slow


SLOTS, POSITIONS = 2, 256


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> LoadedModel:
    return load(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def compiled(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[FrameRunner, int]:
    """Frames as a CPU starts them, and how many versions of layers were compiled for that."""
    before = versions()
    kernels = tmp_path_factory.mktemp("kernels")
    runner = FrameRunner(FrameModel(model, slots=SLOTS, positions=POSITIONS, kernels=kernels))
    assert runner.reasons() == {}
    return runner, versions() - before


def versions() -> int:
    return counters["stats"]["unique_graphs"]


def test_compiled_frames_speak_the_codes_of_plain_ones(
    model: LoadedModel, compiled: tuple[FrameRunner, int]
) -> None:
    prompt = PromptBuilder(model).build(SpeechRequest("Compiled or not.", voice="ryan", language="english"))
    eager = FrameRunner(FrameModel(model, slots=SLOTS, positions=POSITIONS), fastest="eager")
    spoken = []
    for way, runner in (("compiled", compiled[0]), ("eager", eager)):
        assert runner.ways() == {1: way, 2: way}, runner.reasons()
        runner.admit(0, prompt, Sampling(greedy=True), 0, 100)
        runner.admit(1, prompt, Sampling(), 7, 100)
        spoken.append(np.stack([runner.launch(2, [True, True]).read().codes for _ in range(40)]))
    np.testing.assert_array_equal(*spoken)


def test_a_stack_is_compiled_once_for_each_number_of_rows_and_tokens(
    model: LoadedModel, compiled: tuple[FrameRunner, int]
) -> None:
    """Each version costs half a minute of the first start on two cores."""
    runner, at_the_start = compiled
    # Talker: 1 and 2 rows of one token. Code predictor: as many of two tokens, its first step, and of one.
    assert at_the_start == 6
    prompt = PromptBuilder(model).build(SpeechRequest("Once only.", voice="ryan", language="english"))
    before = versions()
    runner.admit(0, prompt, Sampling(greedy=True), 0, 200)
    # To where attention reads 256 positions instead of 128.
    for _ in range(130):
        runner.launch(1, [True]).read()
    assert versions() == before


def test_more_batch_sizes_than_torchs_own_limit_of_versions_are_all_compiled(model: LoadedModel) -> None:
    """Nine slots are five batch sizes, ten versions of the code predictor's layer; torch gives up after eight."""
    runner = FrameRunner(FrameModel(model, slots=9, positions=128))
    assert runner.ways() == dict.fromkeys((1, 2, 4, 8, 9), "compiled"), runner.reasons()
