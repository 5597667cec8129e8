"""From loading to ready, broken or draining."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from arriving_weights import ArrivingWeights
from qwen3_tts_service.admission import Limits
from qwen3_tts_service.errors import CheckpointError, DeviceFault, Downloading, NotReady, SelfCheckFailed
from qwen3_tts_service.lifecycle import Lifecycle, ModelSource, Status
from qwen3_tts_service.loaded_engine import Loaded, LoadedEngine, SelfCheck
from qwen3_tts_service.speech.formats import Output
from qwen3_tts_service.speech.request import SpeechRequest
from qwen3_tts_service.synthesis import Speech
from qwen3_tts_service.weights import Weights
from server_process import wait_for
from stand_in_engine import StandInEngine


def begin(
    load: Callable[[], LoadedEngine], self_check: SelfCheck | None = None, weights: Weights | None = None
) -> tuple[Lifecycle, list[Status]]:
    heard: list[Status] = []
    lifecycle = Lifecycle(
        [ModelSource("one", lambda on_fault: Loaded(load(), self_check or SelfCheck()), weights=weights)],
        limits=Limits(queue_size=1),
        on_change=heard.append,
    )
    lifecycle.start()
    return lifecycle, heard


def loaders() -> set[threading.Thread]:
    """The threads that bring models up, of whichever test."""
    return {thread for thread in threading.enumerate() if thread.name == "loader"}


def speak(lifecycle: Lifecycle) -> Speech:
    return lifecycle.speak(SpeechRequest("a", "vivian"), output=Output("pcm"), timeout_s=1)


def until(lifecycle: Lifecycle, state: str) -> None:
    wait_for(lambda: lifecycle.status.state == state, state)


def test_ready_comes_after_the_first_sentence() -> None:
    engine = StandInEngine()
    engine.go.clear()
    lifecycle, heard = begin(lambda: engine)
    until(lifecycle, "warming")
    wait_for(lambda: engine.begun, "the warm-up sentence")
    with pytest.raises(NotReady, match="speaks its first sentence"):
        speak(lifecycle)
    engine.go.set()
    until(lifecycle, "ready")
    assert [status.state for status in heard] == ["warming", "ready"]
    assert engine.spoken == ["Ready to speak."]


def test_what_the_self_check_found_is_told() -> None:
    passed = SelfCheck("passed", 0.01, 0.1)
    lifecycle, _ = begin(StandInEngine, passed)
    until(lifecycle, "ready")
    assert lifecycle.main.self_check == passed


@pytest.mark.parametrize(
    ("waveform", "reason"),
    [
        (np.zeros(24_000, np.float32), "silent"),
        (np.zeros(0, np.float32), "empty"),
        (np.full(10, np.nan, np.float32), "NaN"),
    ],
)
def test_a_first_sentence_that_is_no_sound_breaks_it(waveform: np.ndarray, reason: str) -> None:
    engine = StandInEngine()
    engine.waveform = waveform
    lifecycle, _ = begin(lambda: engine)
    until(lifecycle, "broken")
    assert reason in lifecycle.status.reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CheckpointError("a\n  b"), "a b"),
        (SelfCheckFailed("the talker computes something else"), "the talker computes something else"),
        (ImportError("libamdhip64.so:\n cannot open"), "ImportError: libamdhip64.so: cannot open"),
    ],
)
def test_a_load_that_fails_is_broken_with_its_reason_in_one_line(error: Exception, reason: str) -> None:
    def load() -> LoadedEngine:
        raise error

    lifecycle, heard = begin(load)
    until(lifecycle, "broken")
    assert heard == [Status("broken", reason)]
    with pytest.raises(NotReady, match=reason.split(":")[0]):
        speak(lifecycle)


def test_a_device_that_dies_later_breaks_it() -> None:
    engine = StandInEngine()
    lifecycle, heard = begin(lambda: engine)
    until(lifecycle, "ready")
    engine.fault = DeviceFault("HIP error: gone")
    with pytest.raises(DeviceFault):
        b"".join(speak(lifecycle))
    assert heard[-1] == Status("broken", "HIP error: gone", fault=True)
    with pytest.raises(NotReady):
        speak(lifecycle)
    # Whoever else meets the lost device adds nothing.
    lifecycle.device_lost(DeviceFault("HIP error: and again"))
    assert lifecycle.status.reason == "HIP error: gone"


def test_an_engine_tells_of_a_lost_device_by_itself() -> None:
    """A hung frame raises nothing in any request: the engine's watchdog calls."""
    told: list[Callable[[DeviceFault], None]] = []

    def load(on_fault: Callable[[DeviceFault], None]) -> Loaded:
        told.append(on_fault)
        return Loaded(StandInEngine())

    lifecycle = Lifecycle([ModelSource("one", load)], limits=Limits(queue_size=1))
    lifecycle.start()
    until(lifecycle, "ready")
    told[0](DeviceFault("a frame took longer than 10 s"))
    assert lifecycle.status == Status("broken", "a frame took longer than 10 s", fault=True)


def test_nothing_brings_it_up_again_on_the_way_down(caplog: pytest.LogCaptureFixture) -> None:
    others = loaders()
    engine = StandInEngine()
    engine.go.clear()
    lifecycle, heard = begin(lambda: engine)
    wait_for(lambda: engine.begun, "the warm-up sentence")
    assert lifecycle.drain(1) is True
    # The warm-up gives up by itself: the thread ends, and its end is no failure.
    wait_for(lambda: not loaders() - others, "the loader's end")
    assert [status.state for status in heard] == ["warming", "draining"]
    assert "cannot serve" not in caplog.text


def test_out_of_rotation_it_serves_and_comes_back() -> None:
    engine = StandInEngine()
    engine.go.clear()
    lifecycle, heard = begin(lambda: engine)
    lifecycle.withdraw()
    engine.go.set()
    until(lifecycle, "ready")
    assert lifecycle.readiness.state == "draining"
    assert b"".join(speak(lifecycle))
    lifecycle.restore()
    lifecycle.restore()
    assert lifecycle.readiness == lifecycle.status == heard[-1]
    lifecycle.withdraw()
    assert heard[-1] == Status("draining", "taken out of rotation; requests are still served")
    assert [status.state for status in heard].count("ready") == 2


def test_what_is_broken_says_so_out_of_rotation() -> None:
    lifecycle, _ = begin(StandInEngine)
    until(lifecycle, "ready")
    lifecycle.withdraw()
    lifecycle.device_lost(DeviceFault("HIP error: gone"))
    assert lifecycle.readiness.state == "broken"


def test_it_waits_for_weights_and_loads_when_they_are_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arriving = ArrivingWeights(tmp_path)
    arriving.tell()
    lifecycle, heard = begin(StandInEngine, weights=arriving.weights)
    until(lifecycle, "downloading")
    assert lifecycle.coming_up is None
    with pytest.raises(Downloading, match=r"50\.0 %"):
        speak(lifecycle)
    arriving.tell(state="failed", error="no such repository")
    until(lifecycle, "download_failed")
    arriving.tell(done=3_000_000_000)
    until(lifecycle, "downloading")
    arriving.arrive()
    until(lifecycle, "ready")
    assert b"".join(speak(lifecycle))
    states = [status.state for status in heard]
    assert states[-3:] == ["loading", "warming", "ready"]
    assert set(states[:-3]) == {"downloading", "download_failed"}
    # A line for each turn that it takes, not for each look.
    assert caplog.text.count("waiting for weights") <= 3
    assert lifecycle.came_up_in_s is not None


def test_while_it_waits_for_weights_it_can_be_stopped(tmp_path: Path) -> None:
    others = loaders()
    lifecycle, heard = begin(StandInEngine, weights=ArrivingWeights(tmp_path).weights)
    until(lifecycle, "no_weights")
    assert lifecycle.drain(1) is True
    wait_for(lambda: not loaders() - others, "the loader's end")
    assert heard[-1].state == "draining"


def test_how_far_loading_is_is_told_while_it_lasts(tmp_path: Path) -> None:
    arriving = ArrivingWeights(tmp_path)
    arriving.arrive()
    engine = StandInEngine()
    engine.go.clear()
    lifecycle, _ = begin(lambda: engine, weights=arriving.weights)
    until(lifecycle, "warming")
    coming_up = lifecycle.coming_up
    assert coming_up is not None
    assert coming_up.size == arriving.weights.size() > 0
    assert coming_up.usual_s is None
    engine.go.set()
    until(lifecycle, "ready")
    assert lifecycle.coming_up is None
