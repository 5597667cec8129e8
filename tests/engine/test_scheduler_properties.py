"""Whatever arrives, leaves, is held, is cancelled or moves: every request gets its undisturbed frames."""

from __future__ import annotations

import random
import time
from types import SimpleNamespace
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qwen3_tts_service.engine import scheduler as scheduler_module
from qwen3_tts_service.engine.scheduler import Job, Scheduler
from qwen3_tts_service.errors import EngineError, InputTooLong

from .device_model import EOS, DeviceModel, Reader, frame_request, undisturbed

SHORT = st.integers(0, 12)


class Client:
    """One request, what it must get, and what was done to it."""

    def __init__(self, job: Job, reader: Reader, seed: int, ends_after: int, max_frames: int) -> None:
        self.job, self.reader, self.seed = job, reader, seed
        self.frames, self.finish = undisturbed(ends_after, seed=seed, max_frames=max_frames)
        self.cancelled = self.refused = self.reader_fails = False
        self.rounds_since_cancel = 0
        self.frames_when_held: int | None = None

    @property
    def over(self) -> bool:
        return bool(self.reader.endings)


class Voices(RuleBasedStateMachine):
    """Drives the loop round by round, with a clock of its own."""

    @initialize(
        slots=st.integers(1, 9), seed=st.none() | st.integers(0, 1 << 20), computes_at_launch=st.booleans()
    )
    def begin(self, slots: int, seed: int | None, computes_at_launch: bool) -> None:
        self.now = 100.0
        clock = SimpleNamespace(monotonic=lambda: self.now)
        self.clock = mock.patch.object(scheduler_module, "time", clock)
        self.clock.start()
        self.device = DeviceModel(
            slots,
            eager=None if seed is None else random.Random(seed),
            computes_at_launch=computes_at_launch,
        )
        self.scheduler = Scheduler(self.device, eos=EOS, on_device_fault=self.no_fault, queue_size=1000)
        self.clients: list[Client] = []

    def no_fault(self, error: Exception) -> None:
        raise AssertionError(error)

    @rule(
        ends_after=SHORT,
        max_frames=st.integers(1, 12),
        patience=st.none() | st.integers(0, 20),
        kind=st.sampled_from(["well"] * 8 + ["refused", "reader fails"]),
        held=st.booleans(),
    )
    def arrive(self, ends_after: int, max_frames: int, patience: int | None, kind: str, held: bool) -> None:
        seed, reader = len(self.clients), Reader()
        request = frame_request(
            ends_after,
            seed=seed,
            max_frames=max_frames,
            deadline=float("inf") if patience is None else self.now + patience,
            refusal=InputTooLong("refused") if kind == "refused" else None,
        )
        if kind == "reader fails":
            reader.fails = RuntimeError("reader")
        client = Client(self.scheduler.submit(request, reader), reader, seed, ends_after, max_frames)
        client.refused, client.reader_fails = kind == "refused", kind == "reader fails"
        self.clients.append(client)
        if held:
            self.hold_client(client)

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.clients))
        client.job.cancel()
        client.cancelled = True

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        self.hold_client(data.draw(st.sampled_from(self.clients)))

    def hold_client(self, client: Client) -> None:
        if not client.reader.held:
            client.reader.held = True
            client.frames_when_held = len(client.reader.frames)

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.clients))
        client.reader.held, client.frames_when_held = False, None

    @rule(seconds=st.integers(1, 10))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(count=st.integers(1, 8))
    def run(self, count: int) -> None:
        for _ in range(count):
            self.round()

    def round(self) -> bool:
        between = len(self.device.admissions) + len(self.device.moves)
        going_on = self.scheduler.round()
        assert len(self.device.admissions) + len(self.device.moves) <= between + 1
        for client in self.clients:
            if client.cancelled:
                client.rounds_since_cancel += 1
                assert client.over
        return going_on

    @invariant()
    def everybody_got_their_own(self) -> None:
        for client in getattr(self, "clients", []):
            got = client.reader.frames
            assert got == client.frames[: len(got)]
            assert len(client.reader.endings) <= 1
            if client.frames_when_held is not None:
                assert len(got) <= client.frames_when_held + 1

    @invariant()
    def who_came_first_entered_first(self) -> None:
        if hasattr(self, "device"):
            assert self.device.admissions == sorted(self.device.admissions)

    @invariant()
    def endings_are_true(self) -> None:
        for client in getattr(self, "clients", []):
            if not client.over:
                continue
            reason, error = client.reader.ending
            if error is not None:
                assert isinstance(error, InputTooLong if client.refused else EngineError)
                assert client.refused or client.reader_fails
            elif reason == "cancelled":
                assert client.cancelled
            elif reason == "deadline":
                assert self.now >= client.job.deadline
            else:
                assert reason == client.finish
                assert client.reader.frames == client.frames

    def teardown(self) -> None:
        if not hasattr(self, "clients"):
            return
        for client in self.clients:
            client.reader.held, client.frames_when_held = False, None
        # Alone, one after the other, they would need this many.
        enough = sum(len(client.frames) + 4 for client in self.clients) + 4
        try:
            for _ in range(enough):
                if not self.round():
                    break
            else:
                raise AssertionError("the loop does not come to rest")
            assert all(client.over for client in self.clients)
            self.everybody_got_their_own()
            self.endings_are_true()
            stats = self.scheduler.stats()
            assert (stats.busy, stats.queued) == (0, 0)
            assert sum(stats.finished.values()) == len(self.clients)
        finally:
            self.clock.stop()


TestVoices = Voices.TestCase
TestVoices.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_long_random_day() -> None:
    """More voices and longer lives than the machine above reaches; the seed is fixed, so is the day."""
    chance = random.Random(7)
    device = DeviceModel(32, eager=random.Random(8))
    scheduler = Scheduler(device, eos=EOS, on_device_fault=lambda error: None, queue_size=1000)
    clients: list[Client] = []
    began = time.monotonic()
    for count in range(6000):
        if chance.random() < (0.3 if count % 2000 < 1000 else 0.05):
            ends_after, max_frames, reader = chance.randint(0, 150), chance.randint(1, 150), Reader()
            request = frame_request(ends_after, seed=len(clients), max_frames=max_frames)
            clients.append(
                Client(scheduler.submit(request, reader), reader, len(clients), ends_after, max_frames)
            )
        if clients and chance.random() < 0.05:
            chance.choice(clients[-40:]).reader.held ^= True
        if clients and chance.random() < 0.02:
            gone = chance.choice(clients[-40:])
            gone.job.cancel()
            gone.cancelled = True
        scheduler.round()
    for client in clients:
        client.reader.held = False
    while scheduler.round():
        assert time.monotonic() - began < 60
    for client in clients:
        reason, error = client.reader.ending
        assert error is None
        assert reason == client.finish or (client.cancelled and reason == "cancelled")
        assert client.reader.frames == client.frames[: len(client.reader.frames)]
        if reason != "cancelled":
            assert client.reader.frames == client.frames
    # The day had what it is for.
    assert len({batch for batch, _ in device.launches}) == 6
    assert len(device.moves) > 20
    assert sum(client.reader.ending[0] == "cancelled" for client in clients) > 20
