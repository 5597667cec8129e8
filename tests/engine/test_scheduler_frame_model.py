"""The frame loop on the real model: a voice's codes do not depend on what its neighbours do."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from qwen3_tts_service.checkpoints.load import LoadedModel, load
from qwen3_tts_service.engine.frame import FrameModel
from qwen3_tts_service.engine.prompt import Prompt, PromptBuilder
from qwen3_tts_service.engine.scheduler import FrameRequest, Job, Scheduler
from qwen3_tts_service.speech.request import Sampling, SpeechRequest

from .device_model import Reader, Result

pytestmark = pytest.mark.slow

SLOTS = 5
POSITIONS = 160
TEXTS = (
    "Hello.",
    "The quick brown fox jumps over the lazy dog, twice.",
    "One, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve.",
)


@dataclass(frozen=True)
class Read:
    result: Result

    def read(self) -> Result:
        return self.result


class PlainRunner:
    """Computes each frame when it is launched, without graphs."""

    batch_sizes = (1, 2, 4, 5)
    slots = SLOTS

    def __init__(self, model: FrameModel) -> None:
        self.model = model
        self.moves = 0

    def admit(self, slot: int, prompt: Prompt, sampling: Sampling, seed: int, max_frames: int) -> int:
        with torch.inference_mode():
            return self.model.admit(slot, prompt, sampling, seed, max_frames)

    def move(self, source: int, target: int) -> None:
        self.moves += 1
        with torch.inference_mode():
            self.model.move(source, target)

    def launch(self, batch: int, active: Sequence[bool]) -> Read:
        state = self.model.state
        with torch.inference_mode():
            state.active[:batch] = torch.tensor(active)
            self.model.frame(batch, POSITIONS)
        return Read(Result(state.codes[:batch].numpy().copy(), state.done[:batch].numpy().copy()))


@dataclass
class Voice:
    """A request and what it says when it is alone."""

    request: FrameRequest
    frames: list[list[int]]
    finish: str


@dataclass
class Client:
    voice: Voice
    job: Job
    reader: Reader


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> LoadedModel:
    return load(tiny_checkpoint, device="cpu", dtype="fp32", cpu_threads=1)


@pytest.fixture(scope="module")
def runner(model: LoadedModel) -> PlainRunner:
    return PlainRunner(FrameModel(model, slots=SLOTS, positions=POSITIONS))


def scheduler_on(runner: PlainRunner) -> Scheduler:
    return Scheduler(runner, eos=runner.model.eos, on_device_fault=lambda error: None)


@pytest.fixture(scope="module")
def voices(runner: PlainRunner, model: LoadedModel) -> list[Voice]:
    """Each run alone, in a slot that nobody used before or somebody else left."""
    builder = PromptBuilder(model)
    samplings = (
        Sampling(),
        Sampling(greedy=True),
        Sampling(temperature=1.3, top_k=0, top_p=0.8, repetition_penalty=1.3, subtalker_top_k=5),
    )
    voices = []
    for index, text in enumerate(TEXTS):
        for offset, sampling in enumerate(samplings):
            feeding = "streaming" if (index + offset) % 2 else "whole"
            asked = SpeechRequest(text, voice="ryan", sampling=sampling, text_feeding=feeding)
            prompt = builder.build(asked)
            request = FrameRequest(prompt, sampling, 10 * index + offset, 8 + 4 * offset, float("inf"))
            reader = Reader()
            scheduler = scheduler_on(runner)
            scheduler.submit(request, reader)
            while scheduler.round():
                pass
            reason, error = reader.ending
            assert error is None
            assert reason is not None
            voices.append(Voice(request, reader.frames, reason))
    return voices


def test_the_voices_differ(voices: list[Voice]) -> None:
    """Otherwise the tests below would not see a mix-up."""
    assert all(voice.frames for voice in voices)
    firsts = {tuple(map(tuple, voice.frames)) for voice in voices}
    assert len(firsts) == len(voices)


@pytest.mark.parametrize("day", range(4))
def test_codes_are_those_of_the_undisturbed_run(runner: PlainRunner, voices: list[Voice], day: int) -> None:
    chance = random.Random(day)
    scheduler, clients = scheduler_on(runner), list[Client]()
    moves, waiting, batches = runner.moves, [*voices, *voices], set()
    chance.shuffle(waiting)
    while waiting:
        for _ in range(chance.choice((0, 0, 0, 1, 1, 4))):
            if waiting:
                voice, reader = waiting.pop(), Reader()
                clients.append(Client(voice, scheduler.submit(voice.request, reader), reader))
        for client in clients:
            what = chance.random()
            if what < 0.03:
                client.job.cancel()
            elif what < 0.1:
                client.reader.held = not client.reader.held
        for _ in range(chance.randint(1, 6)):
            scheduler.round()
            batches.add(scheduler.stats().busy)
    for client in clients:
        client.reader.held = False
    while scheduler.round():
        pass
    whole = 0
    for client in clients:
        reason, error = client.reader.ending
        assert error is None
        got = np.array(client.reader.frames)
        expected = np.array(client.voice.frames[: len(got)])
        np.testing.assert_array_equal(got, expected)
        if reason != "cancelled":
            assert len(got) == len(client.voice.frames)
            assert reason == client.voice.finish
            whole += 1
    # A day on which nothing happened would prove nothing.
    assert whole >= len(clients) // 2
    assert len(batches) >= 4
    assert runner.moves > moves
