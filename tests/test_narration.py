"""Parts of a text, one after the other: what the engine is asked, when, and what is heard."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from qwen3_tts_service.errors import Cancelled, InvalidValue
from qwen3_tts_service.narration import Narration
from qwen3_tts_service.speech.listening import Listener, Reader
from qwen3_tts_service.speech.request import SAMPLES_A_FRAME, SpeechRequest


class Voice:
    """One utterance of :class:`Parts`: says ``frames`` frames of the part's number at once."""

    text_tokens = 7

    def __init__(self, parts: Parts, number: int, request: SpeechRequest, listener: Listener) -> None:
        self.given_up = False
        frames = min(parts.frames, request.max_frames)
        for _ in range(frames):
            listener.hear(np.full(SAMPLES_A_FRAME, (number + 1) / 10, np.float32))
        if number != parts.held:
            listener.end("length" if frames < parts.frames else "stop", None)

    def cancel(self) -> None:
        self.given_up = True


class Parts:
    """An engine that makes a part as fast as it is asked; part ``held`` does not end, part ``bad`` is refused."""

    sample_rate = 24_000
    slots = 1

    def __init__(self, frames: int = 3, held: int = -1, bad: int = -1) -> None:
        self.frames, self.held, self.bad = frames, held, bad
        self.asked: list[SpeechRequest] = []
        self.voices: list[Voice] = []
        self.opened = threading.Event()

    def check(self, request: SpeechRequest) -> None: ...

    def open(self, request: SpeechRequest, *, deadline: float, cancelled: Callable[[], bool]) -> Reader:
        number = len(self.asked)
        if number == self.bad:
            raise InvalidValue("planted", param="input")
        self.asked.append(request)

        def start(listener: Listener) -> Voice:
            self.voices.append(Voice(self, number, request, listener))
            return self.voices[-1]

        return Reader(start, deadline=deadline, cancelled=cancelled)


def narrate(
    engine: Parts, *, texts: int = 3, cancelled: Callable[[], bool] = lambda: False, **fields: object
):  # type: ignore[no-untyped-def]
    request = SpeechRequest(
        "text 0",
        "vivian",
        seed=40,
        more_parts=tuple(f"text {number}" for number in range(1, texts)),
        **fields,  # type: ignore[arg-type]
    )
    return Narration(engine, request, deadline=time.monotonic() + 20, cancelled=cancelled)


def test_every_part_is_heard_in_order_without_a_gap() -> None:
    engine = Parts()
    narration = narrate(engine)
    heard = np.concatenate(list(narration.waveform))
    assert len(heard) == 9 * SAMPLES_A_FRAME
    for number, part in enumerate(np.split(heard, 3)):
        assert np.all(part[120:-120] == np.float32((number + 1) / 10))
    assert [part.text for part in engine.asked] == ["text 0", "text 1", "text 2"]
    assert {(part.voice, part.more_parts) for part in engine.asked} == {("vivian", ())}
    assert [part.seed for part in engine.asked] == [40, 41, 42], "not the same noise again and again"
    assert (narration.finish, narration.text_tokens, narration.part) == ("stop", 21, 2)


def largest_step(sound: np.ndarray) -> float:
    """From one sample to the next: a click is a large one."""
    return float(np.abs(np.diff(sound)).max())


@pytest.mark.parametrize("pause_s", [0.0, 0.1])
def test_there_is_no_click_where_parts_meet(pause_s: float) -> None:
    heard = np.concatenate(list(narrate(Parts(), pause_s=pause_s).waveform))
    assert largest_step(heard) < 0.003
    assert (heard[0], heard[-1]) == (np.float32(0.1), np.float32(0.3)), "the very ends are as they are"
    clicks = heard.copy()
    clicks[2 * SAMPLES_A_FRAME] += 0.02
    assert largest_step(clicks) > 0.01, "one would be found"


def test_a_text_of_one_part_is_not_touched() -> None:
    heard = np.concatenate(list(narrate(Parts(), texts=1).waveform))
    assert np.array_equal(heard, np.full(3 * SAMPLES_A_FRAME, 0.1, np.float32))


def test_a_part_begins_when_the_one_before_is_made_and_not_when_it_was_heard() -> None:
    engine = Parts(frames=5, held=1)
    narration = narrate(engine)
    assert len(engine.asked) == 1
    next(narration.waveform)
    assert len(engine.asked) == 2, "four frames of the first still wait for the listener"
    for _ in range(8):
        next(narration.waveform)
    assert len(engine.asked) == 2, "one part at a time is made"


def test_a_pause_is_silence_between_parts() -> None:
    heard = np.concatenate(list(narrate(Parts(), texts=2, pause_s=0.5).waveform))
    assert len(heard) == 6 * SAMPLES_A_FRAME + 12_000
    assert not heard[3 * SAMPLES_A_FRAME :][:12_000].any()
    assert heard[-3 * SAMPLES_A_FRAME + 1 :].all()


@pytest.mark.parametrize(("max_frames", "asked"), [(100, 3), (9, 3), (8, 3), (7, 3), (6, 2), (3, 1), (2, 1)])
def test_the_longest_length_is_that_of_all_parts(max_frames: int, asked: int) -> None:
    engine = Parts()
    narration = narrate(engine, max_frames=max_frames)
    heard = np.concatenate(list(narration.waveform))
    assert len(heard) == min(max_frames, 9) * SAMPLES_A_FRAME
    assert len(engine.asked) == asked
    assert narration.finish == ("stop" if max_frames >= 9 else "length")


def test_a_pause_counts_too() -> None:
    narration = narrate(Parts(), texts=2, pause_s=0.16, max_frames=6)
    assert len(np.concatenate(list(narration.waveform))) == 3 * SAMPLES_A_FRAME + 2 * 1920 + SAMPLES_A_FRAME
    assert narration.finish == "length"


def test_what_fails_in_a_later_part_is_told_after_what_was_made() -> None:
    narration = narrate(Parts(bad=1))
    heard = []
    with pytest.raises(InvalidValue, match="planted"):
        heard.extend(narration.waveform)
    assert sum(map(len, heard)) == 3 * SAMPLES_A_FRAME


def test_giving_up_ends_the_part_and_begins_no_other() -> None:
    engine = Parts(held=0)
    narration = narrate(engine)
    next(narration.waveform)
    narration.cancel()
    with pytest.raises(Cancelled):
        list(narration.waveform)
    assert engine.voices[0].given_up
    assert len(engine.asked) == 1


def test_giving_up_while_the_next_part_is_opened_reaches_it() -> None:
    engine = Parts(frames=2)
    narration = narrate(engine)
    opened = engine.open

    def give_up_in_the_middle(request: SpeechRequest, **arguments: object) -> Reader:
        reader = opened(request, **arguments)  # type: ignore[arg-type]
        narration.cancel()
        return reader

    engine.open = give_up_in_the_middle  # type: ignore[method-assign,assignment]
    with pytest.raises(Cancelled):
        list(narration.waveform)
    assert engine.voices[1].given_up
