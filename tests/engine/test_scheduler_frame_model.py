"""The frame loop on the real model: a voice's codes do not depend on what its neighbours do."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from qwen3_tts_service.checkpoints.load import LoadedModel, load
from qwen3_tts_service.engine.frame import FrameModel
from qwen3_tts_service.engine.graphs import FrameRunner
from qwen3_tts_service.engine.prompt import PromptBuilder
from qwen3_tts_service.engine.scheduler import FrameRequest, Job, Scheduler
from qwen3_tts_service.speech.request import Sampling, SpeechRequest

from .device_model import Reader

pytestmark = pytest.mark.slow

SLOTS = 5
POSITIONS = 160
TEXTS = (
    "Hello.",
    "The quick brown fox jumps over the lazy dog, twice.",
    "One, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve.",
)


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
def runner(model: LoadedModel) -> FrameRunner:
    # Plain torch: whether a faster way computes the same is asked elsewhere.
    return FrameRunner(FrameModel(model, slots=SLOTS, positions=POSITIONS), fastest="eager")


def scheduler_on(runner: FrameRunner) -> Scheduler:
    return Scheduler(runner, eos=runner.model.eos, on_device_fault=lambda error: None)


@pytest.fixture(scope="module")
def voices(runner: FrameRunner, model: LoadedModel) -> list[Voice]:
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


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("day", range(4))
def test_codes_are_those_of_the_undisturbed_run(
    runner: FrameRunner, voices: list[Voice], day: int, ahead: bool
) -> None:
    """On a CPU a frame is there when it is launched; the loop must not count on that, nor on the contrary."""
    runner.computes_at_launch = not ahead
    chance = random.Random(day)
    scheduler, clients = scheduler_on(runner), list[Client]()
    waiting, busy = [*voices, *voices], set()
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
            busy.add(scheduler.stats().busy)
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
    assert len(busy) >= 4
    assert scheduler.stats().moves > 0


def test_clients_on_threads_get_the_same(runner: FrameRunner, voices: list[Voice]) -> None:
    scheduler = scheduler_on(runner)
    scheduler.start()
    readers = [Reader() for _ in voices]

    def client(voice: Voice, reader: Reader) -> None:
        scheduler.submit(voice.request, reader)
        assert reader.over.wait(60.0)

    threads = [threading.Thread(target=client, args=pair) for pair in zip(voices, readers, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scheduler.stop(10.0)
    for voice, reader in zip(voices, readers, strict=True):
        assert reader.ending == (voice.finish, None)
        assert reader.frames == voice.frames
