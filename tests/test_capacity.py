"""How many streams are spoken at a time: as many as an engine of a given speed sustains."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from qwen3_tts_service import capacity
from qwen3_tts_service.admission import Limits
from qwen3_tts_service.capacity import Capacity
from qwen3_tts_service.errors import DeviceFault
from qwen3_tts_service.loaded_engine import Loaded
from qwen3_tts_service.served_model import ServedModel
from qwen3_tts_service.speech.request import SAMPLES_A_FRAME, SpeechRequest
from stand_in_engine import StandInEngine

REQUEST = SpeechRequest("a", "vivian")
FRAME_S = 0.08


class Timed(StandInEngine):
    """A frame of so many voices takes ``frame_s(voices)`` seconds, by a clock that only frames move.

    All voices of a frame have it before the next one is begun, as with the real scheduler.
    """

    def __init__(self, slots: int, frame_s: Callable[[int], float]) -> None:
        super().__init__(slots)
        self.now = time.monotonic()
        self.first_s = 0.0
        self.frames = 1000
        self.measured: list[int] = []
        self._frame_s = frame_s
        self.together(1)

    def together(self, voices: int) -> None:
        self._frame = threading.Barrier(voices, action=lambda: self._pass(voices))
        self._due_s = self.first_s

    def _pass(self, voices: int) -> None:
        self.now += self._due_s + self._frame_s(voices)
        self._due_s = 0.0

    def pieces(self, request: SpeechRequest) -> Iterator[np.ndarray]:  # type: ignore[override]
        for _ in range(min(self.frames, request.max_frames)):
            self._frame.wait(10)
            yield np.full(SAMPLES_A_FRAME, 0.1, np.float32)


@pytest.fixture
def on_its_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Timed], Timed]:
    """Let capacity read an engine's clock, and the engine know how many are going to speak."""
    speed = capacity._speed

    def set_up(engine: Timed) -> Timed:
        def of_so_many(_engine: object, request: SpeechRequest, streams: int, give_up: Callable[[], bool]):  # type: ignore[no-untyped-def]
            engine.measured.append(streams)
            engine.together(streams)
            return speed(engine, request, streams, give_up)

        monkeypatch.setattr(capacity, "_speed", of_so_many)
        monkeypatch.setattr(capacity, "monotonic", lambda: engine.now)
        return engine

    return set_up


def measure(engine: Timed) -> Capacity:
    return capacity.measure(engine, REQUEST, give_up=lambda: False)


@pytest.mark.parametrize(
    ("frame_s", "slots", "streams"),
    [
        # A GPU: far faster than real time with all slots.
        (lambda voices: 0.004 + 0.0001 * voices, 64, 64),
        # 5 ms a voice: thirteen at 1.23 times real time, fourteen would be at 1.14.
        (lambda voices: 0.005 * voices, 64, 13),
        # Exactly enough is enough, and less is not.
        (lambda voices: FRAME_S / 1.2 - 1e-9, 8, 8),
        (lambda voices: FRAME_S / 1.19, 8, 1),
        # A CPU that is slower than real time serves one, slowly.
        (lambda voices: 0.133 * voices, 2, 1),
        (lambda voices: 0.03 * voices, 2, 2),
        (lambda voices: 1.0, 1, 1),
    ],
)
def test_as_many_as_are_made_faster_than_they_are_listened_to(
    on_its_clock: Callable[[Timed], Timed], frame_s: Callable[[int], float], slots: int, streams: int
) -> None:
    found = measure(on_its_clock(Timed(slots, frame_s)))
    assert found.streams == streams
    assert found.speeds == {voices: pytest.approx(FRAME_S / frame_s(voices)) for voices in found.speeds}, (
        "what was measured is what it takes"
    )


def test_usually_one_measurement_is_enough_and_at_most_as_many_as_halve_the_slots(
    on_its_clock: Callable[[Timed], Timed],
) -> None:
    fast = on_its_clock(Timed(64, lambda voices: 0.01))
    measure(fast)
    assert fast.measured == [64]
    slow = on_its_clock(Timed(64, lambda voices: 1.0))
    measure(slow)
    assert slow.measured == [64, 32, 16, 8, 4, 2]


def test_the_way_to_the_first_sound_does_not_count(on_its_clock: Callable[[Timed], Timed]) -> None:
    engine = on_its_clock(Timed(1, lambda voices: 0.02))
    engine.slots, engine.first_s = 2, 30.0
    assert measure(engine).streams == 2


def test_a_model_that_says_nothing_more_is_never_late(on_its_clock: Callable[[Timed], Timed]) -> None:
    engine = on_its_clock(Timed(4, lambda voices: 9.0))
    engine.frames = 1
    assert measure(engine) == Capacity(4, {})


def test_what_the_engine_raises_is_raised(on_its_clock: Callable[[Timed], Timed]) -> None:
    engine = on_its_clock(Timed(2, lambda voices: 0.01))
    engine.fault, engine.fault_at = DeviceFault("gone"), 3
    with pytest.raises(DeviceFault, match="gone"):
        measure(engine)


@pytest.mark.parametrize(("setting", "streams"), [(0, 13), (4, 4), (64, 16)])
def test_a_model_speaks_no_more_at_a_time(
    on_its_clock: Callable[[Timed], Timed], setting: int, streams: int
) -> None:
    engine = on_its_clock(Timed(16, lambda voices: 0.005 * voices))
    model = ServedModel("one", load=lambda on_fault: Loaded(engine), limits=Limits(0, streams=setting))
    model.come_up()
    assert (model.load.slots, model.load.streams) == (16, streams)
    assert bool(engine.measured) == (setting == 0)
