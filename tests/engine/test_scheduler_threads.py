"""The frame loop on its own thread: arrivals from many threads, stops, and devices that fail or hang."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from qwen3_tts_service.engine.scheduler import Scheduler
from qwen3_tts_service.errors import DeviceFault, Draining

from .device_model import EOS, DeviceModel, Reader, frame_request, undisturbed

pytestmark = pytest.mark.measuring

ENDLESS = 1 << 30
LIMIT_S = 0.5


class Alarm:
    """Hears of a lost device, and remembers who had been told by then."""

    def __init__(self) -> None:
        self.faults: list[DeviceFault] = []
        self.readers: list[Reader] = []
        self.told_before: list[bool] = []
        self.rung = threading.Event()

    def __call__(self, error: DeviceFault) -> None:
        self.faults.append(error)
        self.told_before = [reader.over.is_set() for reader in self.readers]
        self.rung.set()


@contextmanager
def running(device: DeviceModel, alarm: Alarm | None = None, limit_s: float = LIMIT_S) -> Iterator[Scheduler]:
    scheduler = Scheduler(
        device,
        eos=EOS,
        on_device_fault=alarm or Alarm(),
        frame_limit_s=limit_s,
        first_use_limit_s=4 * limit_s,
    )
    scheduler.start()
    try:
        yield scheduler
    finally:
        scheduler.stop(0.0)


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.002)


def test_clients_on_many_threads_get_their_own_frames() -> None:
    device = DeviceModel(8, frame_s=0.0005, eager=random.Random(1))
    faults: list[str] = []

    def client(number: int) -> None:
        chance = random.Random(number)
        for turn in range(12):
            seed, ends_after = 1000 * number + turn, chance.randint(0, 30)
            reader = Reader()
            job = scheduler.submit(frame_request(ends_after, seed=seed, max_frames=25), reader)
            frames, finish = undisturbed(ends_after, seed=seed, max_frames=25)
            what = chance.random()
            if what < 0.2:
                time.sleep(chance.random() * 0.01)
                job.cancel()
            elif what < 0.4:
                reader.held = True
                time.sleep(chance.random() * 0.02)
                reader.held = False
            if not reader.over.wait(20.0):
                faults.append(f"{seed} hangs")
            reason, error = reader.ending
            whole = reason == finish and reader.frames == frames
            cut = what < 0.2 and reason == "cancelled" and reader.frames == frames[: len(reader.frames)]
            if error is not None or not (whole or cut):
                faults.append(f"{seed}: {reason} {error} {len(reader.frames)} of {len(frames)}")

    with running(device) as scheduler:
        threads = [threading.Thread(target=client, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60.0)
        stats = scheduler.stats()
    assert faults == []
    assert sum(stats.finished.values()) == 16 * 12
    assert (stats.busy, stats.queued) == (0, 0)


def test_an_idle_loop_sleeps_and_wakes_for_work() -> None:
    device = DeviceModel(2)
    with running(device) as scheduler:
        first = Reader()
        scheduler.submit(frame_request(3), first)
        assert first.over.wait(5.0)
        time.sleep(0.05)
        began = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - began < 0.05
        second = Reader()
        began = time.monotonic()
        scheduler.submit(frame_request(3), second)
        assert second.over.wait(5.0)
        assert time.monotonic() - began < 0.3


def test_with_everybody_held_the_loop_sleeps_too_and_a_deadline_is_kept() -> None:
    with running(DeviceModel(1)) as scheduler:
        reader = Reader()
        scheduler.submit(frame_request(ENDLESS, deadline=time.monotonic() + 1.0), reader)
        wait_for(lambda: len(reader.frames) > 3)
        reader.held = True
        time.sleep(0.05)
        began = time.process_time()
        time.sleep(0.4)
        assert time.process_time() - began < 0.1
        assert not reader.over.is_set()
        assert reader.over.wait(1.5)
        assert reader.ending == ("deadline", None)


def test_cancelling_frees_the_slot_within_two_frames() -> None:
    device = DeviceModel(1, frame_s=0.02)
    with running(device) as scheduler:
        leaving, waiting = Reader(), Reader()
        job = scheduler.submit(frame_request(ENDLESS, seed=1), leaving)
        scheduler.submit(frame_request(ENDLESS, seed=2), waiting)
        wait_for(lambda: len(leaving.frames) > 5)
        launched = len(device.launches)
        job.cancel()
        assert leaving.over.wait(5.0)
        wait_for(lambda: len(device.admissions) == 2)
        assert len(device.launches) - launched <= 2


def test_stopping_finishes_what_was_accepted() -> None:
    scheduler = Scheduler(DeviceModel(2, frame_s=0.002), eos=EOS, on_device_fault=Alarm())
    scheduler.start()
    readers = [Reader() for _ in range(5)]
    for seed, reader in enumerate(readers):
        scheduler.submit(frame_request(20, seed=seed), reader)
    assert scheduler.stop(20.0)
    for seed, reader in enumerate(readers):
        assert reader.ending == ("stop", None)
        assert reader.frames == undisturbed(20, seed=seed, max_frames=1000)[0]
    with pytest.raises(Draining):
        scheduler.submit(frame_request(3), Reader())


def test_stopping_gives_up_what_takes_too_long() -> None:
    scheduler = Scheduler(DeviceModel(1, frame_s=0.002), eos=EOS, on_device_fault=Alarm())
    scheduler.start()
    speaking, waiting = Reader(), Reader()
    for reader in (speaking, waiting):
        scheduler.submit(frame_request(ENDLESS), reader)
    wait_for(lambda: len(speaking.frames) > 3)
    assert not scheduler.stop(0.05)
    for reader in (speaking, waiting):
        reason, error = reader.ending
        assert reason is None
        assert isinstance(error, Draining)


@pytest.mark.parametrize("where", ["launch", "read", "admit"])
def test_a_device_that_fails_ends_everybody_and_refuses_the_next(where: str) -> None:
    alarm, device = Alarm(), DeviceModel(2)
    gone = RuntimeError("HIP error: unspecified launch failure")

    def fail() -> None:
        raise gone

    with running(device, alarm) as scheduler:
        readers = alarm.readers = [Reader() for _ in range(4)]
        scheduler.submit(frame_request(ENDLESS), readers[0])
        wait_for(lambda: len(readers[0].frames) > 3)
        for seed, reader in enumerate(readers[1:], start=1):
            refusal = gone if where == "admit" and seed == 1 else None
            scheduler.submit(frame_request(ENDLESS, seed=seed, refusal=refusal), reader)
        if where != "admit":
            setattr(device, f"before_{where}", fail)
        assert alarm.rung.wait(5.0)
        assert alarm.told_before == [True] * 4
        for reader in readers:
            reason, error = reader.ending
            assert reason is None
            assert isinstance(error, DeviceFault)
            assert "unspecified launch failure" in error.message
        with pytest.raises(DeviceFault, match="unspecified launch failure"):
            scheduler.submit(frame_request(5), Reader())
        assert len(alarm.faults) == 1


@pytest.mark.parametrize("where", ["read", "launch", "admit"])
def test_a_call_that_never_returns_is_noticed_and_told_at_once(where: str) -> None:
    """A GPU that hangs raises nothing: most of all, the replay of a graph is waited for without an end."""
    alarm, device, hang = Alarm(), DeviceModel(4), threading.Event()
    with running(device, alarm) as scheduler:
        readers = alarm.readers = [Reader() for _ in range(6)]
        for seed, reader in enumerate(readers[:3]):
            scheduler.submit(frame_request(ENDLESS, seed=seed), reader)
        wait_for(lambda: len(readers[2].frames) > 10)
        began = time.monotonic()
        setattr(device, f"before_{where}", hang.wait)
        # One for the free slot, two that wait.
        for seed, reader in enumerate(readers[3:], start=3):
            scheduler.submit(frame_request(ENDLESS, seed=seed), reader)
        assert alarm.rung.wait(10.0)
        assert LIMIT_S <= time.monotonic() - began < LIMIT_S + 1.5
        # All know before the process is told to end.
        assert alarm.told_before == [True] * 6
        for reader in readers:
            reason, error = reader.ending
            assert reason is None
            assert isinstance(error, DeviceFault)
            assert "took longer than 0.5 s" in error.message
        with pytest.raises(DeviceFault):
            scheduler.submit(frame_request(5), Reader())
        # What the device brings after all reaches nobody.
        before, launched = [list(reader.frames) for reader in readers], len(device.launches)
        hang.set()
        scheduler._thread.join(5.0)
        assert not scheduler._thread.is_alive()
        assert [reader.frames for reader in readers] == before
        assert len(device.launches) == launched + (where == "launch")
        assert all(len(reader.endings) == 1 for reader in readers)
        assert len(alarm.faults) == 1


def test_a_first_frame_may_take_longer_and_a_second_may_not() -> None:
    alarm, device = Alarm(), DeviceModel(1)
    pauses = iter([2 * LIMIT_S])
    device.before_read = lambda: time.sleep(next(pauses, 0.0))
    with running(device, alarm) as scheduler:
        reader = Reader()
        scheduler.submit(frame_request(5, seed=1), reader)
        assert reader.over.wait(10.0)
        assert reader.ending == ("stop", None)
        wait_for(lambda: scheduler.stats().frames == len(device.launches))
        pauses = iter([2 * LIMIT_S])
        second = Reader()
        scheduler.submit(frame_request(5, seed=2), second)
        assert second.over.wait(10.0)
        assert isinstance(second.ending[1], DeviceFault)
        assert alarm.rung.wait(1.0)
