"""The rule that says which frames are decoded next, without threads and clocks."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3_tts_service.codec.chunking import (
    AHEAD_S,
    CPU_SHAPES,
    FRAME_S,
    GPU_SHAPES,
    Progress,
    Shape,
    check,
    choose,
    next_look,
)

SIZES = (1, 2, 4, 8, 16)
#: A call costs 20 ms for the weights and 25 ms a frame: the codec on two cores.
SECONDS = {shape: 0.020 + 0.025 * shape.batch * shape.frames for shape in (*CPU_SHAPES, *GPU_SHAPES)}


@dataclass
class Voice:
    name: str
    progress: Progress = field(default_factory=lambda: Progress(since=0.0))


def voice(name: str, waiting: int, *, heard: int = 0, at: float = 0.0, now: float = 0.0) -> Voice:
    """A stream opened ``at`` with ``waiting`` frames, and ``heard`` frames delivered ``now``."""
    one = Voice(name, Progress(since=at))
    for _ in range(waiting + heard):
        one.progress.arrive()
    for size in SIZES:
        if one.progress.decoded + size <= heard:
            one.progress.take(size)
            one.progress.advance(size, now)
    assert one.progress.decoded == heard
    return one


def test_chunks_grow_while_all_is_there() -> None:
    progress = Progress(since=0.0, waiting=112, finished=True)
    taken, now = [], 0.0
    while size := progress.chunk(SIZES, now):
        taken.append(size)
        progress.take(size)
        now += 0.025 * size
        progress.advance(size, now)
    assert taken == [1, 2, 4, 8, 16, 16, 16, 16, 16, 16, 1]
    assert progress.decoded == 112


def test_who_has_enough_to_hear_waits_for_a_full_chunk_and_who_runs_dry_does_not() -> None:
    progress = voice("a", 7, heard=15, now=100.0).progress
    dry = 100.0 + 15 * FRAME_S
    assert progress.chunk(SIZES, 100.0) == 0
    assert progress.starved_at == pytest.approx(dry - AHEAD_S)
    assert progress.chunk(SIZES, dry - AHEAD_S + 1e-6) == 4
    progress.arrive()
    assert progress.chunk(SIZES, 100.0) == 0
    for _ in range(8):
        progress.arrive()
    assert progress.chunk(SIZES, 100.0) == 16


def test_who_ran_dry_takes_all_that_is_there_at_once() -> None:
    """Small chunks are dear, and its listener waits anyway: what 64 streams on a slow codec are in."""
    progress = voice("a", 20, heard=1, now=100.0).progress
    assert progress.chunk(SIZES, 100.0 + FRAME_S) == 2
    assert progress.chunk(SIZES, 100.0 + FRAME_S + 1e-6) == 16
    progress.waiting = 9
    assert progress.chunk(SIZES, 101.0) == 8
    # Nobody has heard it yet: one frame sounds soonest.
    assert voice("fresh", 20, at=50.0).progress.chunk(SIZES, 101.0) == 1


def test_the_last_frames_wait_for_nothing() -> None:
    progress = voice("a", 7, heard=15, now=100.0).progress
    progress.finished = True
    assert progress.chunk(SIZES, 100.0) == 4


def test_a_listener_who_ran_dry_hears_on_from_the_new_sound() -> None:
    progress = voice("a", 1, heard=1, now=100.0).progress
    progress.take(1)
    progress.advance(1, 200.0)
    assert progress.dry_at == pytest.approx(200.0 + FRAME_S)


def test_a_fresh_stream_goes_before_others_large_chunks() -> None:
    starved = voice("starved", 16, heard=15, now=0.0)
    fresh = voice("fresh", 3, at=50.0)
    chunk = choose([starved, fresh], CPU_SHAPES, SECONDS, 60.0)
    assert chunk is not None
    assert ([s.name for s in chunk.streams], chunk.shape) == (["fresh"], Shape(1, 1))


def test_who_hears_silence_soonest_goes_first() -> None:
    later = voice("later", 8, heard=7, now=60.1)
    sooner = voice("sooner", 8, heard=7, now=60.0)
    chunk = choose([later, sooner], CPU_SHAPES, SECONDS, 60.2)
    assert chunk is not None
    assert [s.name for s in chunk.streams] == ["sooner"]


def test_first_chunks_share_a_batch_when_that_serves_each_of_them_sooner() -> None:
    fresh = [voice(str(n), 2, at=float(n)) for n in range(6)]
    together = {**SECONDS, Shape(4, 1): 1.5 * SECONDS[Shape(1, 1)]}
    chunk = choose(fresh, CPU_SHAPES, together, 9.0)
    assert chunk is not None
    assert (chunk.shape, [s.name for s in chunk.streams]) == (Shape(4, 1), ["0", "1", "2", "3"])
    alone = {**SECONDS, Shape(4, 1): 4.5 * SECONDS[Shape(1, 1)]}
    chunk = choose(fresh, CPU_SHAPES, alone, 9.0)
    assert chunk is not None
    assert (chunk.shape, len(chunk.streams)) == (Shape(1, 1), 1)


def test_a_recording_is_heard_in_large_chunks_behind_those_who_run_dry() -> None:
    clone = voice("clone", 2, at=60.0)
    clone.progress.context, clone.progress.reach = 23, 5
    dry = voice("dry", 1, heard=15, now=10.0)
    chunk = choose([clone, dry], CPU_SHAPES, SECONDS, 61.0)
    assert chunk is not None
    assert chunk.streams[0].name == "dry"
    taken = []
    while clone.progress.context:
        chunk = choose([clone], CPU_SHAPES, SECONDS, 61.0)
        assert chunk is not None
        taken.append((chunk.shape.frames, chunk.hears))
        assert clone.progress.take(chunk.shape.frames) is True
    assert taken == [(16, True), (2, True), (4, False), (1, False)]
    assert clone.progress.chunk(SIZES, 61.0) == 1
    assert clone.progress.take(1) is False


def test_nothing_to_do_says_when_to_look_again() -> None:
    waits = voice("waits", 3, heard=15, now=10.0)
    empty = voice("empty", 0, heard=15, now=0.0)
    assert choose([waits, empty], CPU_SHAPES, SECONDS, 10.0) is None
    assert next_look([waits, empty]) == waits.progress.starved_at
    assert next_look([empty]) is None


@given(
    waiting=st.lists(st.integers(0, 40), min_size=1, max_size=40),
    heard=st.sampled_from([0, 1, 3, 7, 15]),
    finished=st.booleans(),
    shapes=st.sampled_from([CPU_SHAPES, GPU_SHAPES]),
    now=st.floats(0, 10),
)
def test_every_choice_is_one_of_the_shapes_and_takes_what_is_there(
    waiting: list[int], heard: int, finished: bool, shapes: tuple[Shape, ...], now: float
) -> None:
    voices = [voice(str(index), count, heard=heard) for index, count in enumerate(waiting)]
    for one in voices:
        one.progress.finished = finished
    chunk = choose(voices, shapes, SECONDS, now)
    if chunk is None:
        assert all(not v.progress.waiting or now < v.progress.starved_at for v in voices)
        assert not finished or not any(waiting)
        return
    assert chunk.shape in shapes
    assert 1 <= len(chunk.streams) <= chunk.shape.batch
    assert all(v.progress.waiting >= chunk.shape.frames for v in chunk.streams)
    ready = [v for v in voices if v.progress.chunk(sorted({s.frames for s in shapes}), now)]
    assert min(v.progress.urgency for v in ready) == chunk.streams[0].progress.urgency


@pytest.mark.parametrize("shapes", [(), (Shape(1, 2),), tuple(Shape(n, 1) for n in range(1, 8))])
def test_shapes_that_cannot_serve_are_refused(shapes: tuple[Shape, ...]) -> None:
    with pytest.raises(ValueError, match="one to 6 shapes"):
        check(shapes)
