"""The engine's process as its parent sees it: what crosses, and what its end does to whoever waits for it."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qwen3_tts_service.config import Settings
from qwen3_tts_service.engine_process import parent
from qwen3_tts_service.engine_process.parent import EngineProcess, RemoteEngine, RemoteUtterance
from qwen3_tts_service.errors import Cancelled, DeviceFault, Draining, QueueFull, TTSError, UnknownVoice
from qwen3_tts_service.speech.request import SpeechRequest
from server_process import wait_for
from stand_in_engine import TONE

WAIT_S = 60.0


class Running:
    """A child with the steered engine, and what its parent was told of faults."""

    def __init__(self) -> None:
        self.faults: list[DeviceFault] = []
        self.process = EngineProcess(Settings(model=Path("/nowhere"), slots=1, frame_deadline_s=0.5))
        self.loaded = self.process.load(Path("/nowhere"), self.faults.append)
        assert isinstance(self.loaded.engine, RemoteEngine)
        self.engine = self.loaded.engine

    @property
    def child(self) -> subprocess.Popen[bytes]:
        assert self.process._process is not None
        return self.process._process

    def open(self, text: str, gone: threading.Event | None = None) -> RemoteUtterance:
        return self.engine.open(
            SpeechRequest(text, "vivian"),
            deadline=time.monotonic() + WAIT_S,
            cancelled=(gone or threading.Event()).is_set,
        )


@contextlib.contextmanager
def a_child() -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parent, "PROGRAM", ("-m", "steered_engine"))
        paths = [str(Path(parent.__file__).parents[2]), str(Path(__file__).parents[1])]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        started = Running()
    yield started
    started.process.stop()
    assert started.child.poll() is not None


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """One for those who leave it as they find it."""
    with a_child() as started:
        yield started


@pytest.fixture
def mortal() -> Iterator[Running]:
    """One of its own for who ends it."""
    with a_child() as started:
        yield started


def test_sound_descriptions_and_typed_errors_cross(running: Running) -> None:
    engine = running.engine
    assert (engine.model_type, engine.slots, engine.sample_rate) == ("custom_voice", 1, 24_000)
    assert (engine.ways(), engine.reasons()) == ({1: "eager"}, {1: "no compiler"})
    loaded = running.loaded
    assert (loaded.codec_way, loaded.codec_reason, loaded.prompt_way) == (
        "compiled",
        "no graphs",
        "captured",
    )
    # More utterances than there are lanes: each gives its own back.
    for _ in range(5):
        utterance = running.open("Hello.")
        np.testing.assert_array_equal(np.concatenate(list(utterance)), TONE)
        assert utterance.finish == "stop"
    for ask in (engine.check, lambda request: engine.open(request, deadline=1e12, cancelled=bool)):
        with pytest.raises(UnknownVoice, match="choose from vivian, ryan") as caught:
            ask(SpeechRequest("Hello.", "nobody"))
        assert caught.value.param == "voice"
    assert running.faults == []


def test_giving_up_reaches_the_other_process(running: Running) -> None:
    gone = threading.Event()
    for give_up in (RemoteUtterance.cancel, lambda utterance: gone.set()):
        utterance = running.open("wait", gone)
        assert len(next(utterance))
        give_up(utterance)
        with pytest.raises(Cancelled):
            list(utterance)
        assert utterance.finish == "cancelled"
        gone.clear()
        # Its lane comes back only when the other process has let it go.
        wait_for(lambda: len(running.process._free) == 2, "all lanes are free")
    assert len(np.concatenate(list(running.open("Hello."))))


def test_a_child_that_is_killed_ends_everything_with_its_cause(mortal: Running) -> None:
    waiting, dying = mortal.open("wait"), mortal.open("die")
    for utterance in (waiting, dying):
        with pytest.raises(DeviceFault, match="the engine process was ended by SIGKILL"):
            list(utterance)
    with pytest.raises(DeviceFault, match="SIGKILL"):
        mortal.open("Hello.")
    assert mortal.engine.stats() is None
    wait_for(lambda: mortal.faults, "the server hears of it")
    assert len(mortal.faults) == 1


def test_a_fault_is_told_and_the_process_may_live_on(mortal: Running) -> None:
    with pytest.raises(DeviceFault, match="a frame took longer than 10 s"):
        list(mortal.open("stuck"))
    wait_for(lambda: mortal.faults, "the server hears of it")
    assert mortal.child.poll() is None


@pytest.mark.slow
def test_a_child_whose_interpreter_hangs_is_noticed_and_ended(mortal: Running) -> None:
    """A driver may hang in a call that keeps the interpreter: no thread of that process can tell."""
    with pytest.raises(DeviceFault, match=r"has not answered for 10\.5 s"):
        list(mortal.open("freeze"))
    assert mortal.child.wait(WAIT_S) == -signal.SIGKILL


def test_signals_for_the_service_are_the_parents_to_answer(running: Running) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        running.child.send_signal(number)
    assert len(np.concatenate(list(running.open("Hello."))))


def test_it_leaves_by_itself_when_its_parent_is_gone(mortal: Running) -> None:
    mortal.process.stop()
    assert mortal.child.wait(WAIT_S) == 0
    assert mortal.faults == []
    with pytest.raises(Draining):
        mortal.open("Hello.")


def test_the_server_does_not_load_torch() -> None:
    """It answers at once, and a driver's crash is not its own."""
    program = "import sys, qwen3_tts_service.commands.serve; print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(parent.__file__).parents[2])}
    told = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert told.stdout.decode().strip() == "False"


@pytest.mark.parametrize(
    "error",
    [QueueFull("full", retry_after_s=3.0, param="x"), UnknownVoice("who?", param="voice"), TTSError("so")],
)
def test_errors_survive_the_way(error: TTSError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert again.__dict__ == error.__dict__
    assert str(again) == str(error)
