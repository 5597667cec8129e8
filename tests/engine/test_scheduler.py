"""The frame loop, round by round, on a modelled device."""

from __future__ import annotations

import time

import pytest

from qwen3_tts_service.engine.scheduler import Scheduler
from qwen3_tts_service.errors import DeviceFault, EngineError, InputTooLong, QueueFull

from .device_model import EOS, DeviceModel, Reader, frame_request, undisturbed


def scheduler_on(device: DeviceModel, *, queue_size: int = 64) -> Scheduler:
    return Scheduler(device, eos=EOS, on_device_fault=lambda error: None, queue_size=queue_size)


def rounds(scheduler: Scheduler, count: int) -> None:
    for _ in range(count):
        scheduler.round()


def until_idle(scheduler: Scheduler, limit: int = 1000) -> None:
    for _ in range(limit):
        if not scheduler.round():
            return
    pytest.fail("the loop did not come to rest")


def test_a_request_gets_its_frames_and_stops() -> None:
    scheduler = scheduler_on(DeviceModel(slots=2))
    reader = Reader()
    job = scheduler.submit(frame_request(5, seed=3), reader)
    until_idle(scheduler)
    assert reader.frames == undisturbed(5, seed=3, max_frames=1000)[0]
    assert reader.ending == ("stop", None)
    assert job.frames == 5


def test_speech_without_an_end_is_cut_at_its_budget() -> None:
    scheduler = scheduler_on(DeviceModel(slots=1))
    reader = Reader()
    scheduler.submit(frame_request(1 << 30, seed=4, max_frames=6), reader)
    until_idle(scheduler)
    assert reader.frames == undisturbed(1 << 30, seed=4, max_frames=6)[0]
    assert reader.ending == ("length", None)


def test_speech_that_ends_with_its_last_allowed_frame_has_stopped() -> None:
    scheduler = scheduler_on(DeviceModel(slots=1))
    reader = Reader()
    # The frame that says the end is the sixth.
    scheduler.submit(frame_request(5, seed=4, max_frames=6), reader)
    until_idle(scheduler)
    assert len(reader.frames) == 5
    assert reader.ending == ("stop", None)


def test_a_frame_is_launched_before_the_one_before_it_is_read() -> None:
    device = DeviceModel(slots=1)
    scheduler = scheduler_on(device)
    launched_at_reads = []
    device.before_read = lambda: launched_at_reads.append(len(device.launches))
    scheduler.submit(frame_request(50), Reader())
    rounds(scheduler, 6)
    assert launched_at_reads == [2, 3, 4, 5, 6]


def test_where_launching_computes_a_frame_is_handed_out_at_once() -> None:
    device = DeviceModel(slots=1, computes_at_launch=True)
    scheduler = scheduler_on(device)
    reader = Reader()
    scheduler.submit(frame_request(3, seed=1), reader)
    for count in (1, 2, 3):
        scheduler.round()
        assert len(reader.frames) == count
    until_idle(scheduler)
    # No frame is computed for nothing: three, and the one that says the end.
    assert len(device.launches) == 4
    assert reader.ending == ("stop", None)


def test_a_slot_is_used_again_in_the_next_frame_and_gets_nothing_of_its_predecessor() -> None:
    device = DeviceModel(slots=1)
    scheduler = scheduler_on(device)
    first, second = Reader(), Reader()
    scheduler.submit(frame_request(3, seed=1), first)
    scheduler.submit(frame_request(4, seed=2), second)
    until_idle(scheduler)
    assert first.frames == undisturbed(3, seed=1, max_frames=1000)[0]
    assert second.frames == undisturbed(4, seed=2, max_frames=1000)[0]
    # 3 frames, the end, one that was on the way; 4 frames, the end, one that was on the way.
    assert len(device.launches) == 5 + 6


def test_requests_enter_in_the_order_in_which_they_came() -> None:
    device = DeviceModel(slots=2)
    scheduler = scheduler_on(device)
    for seed in range(10):
        scheduler.submit(frame_request(seed % 3, seed=seed), Reader())
    until_idle(scheduler)
    assert device.admissions == list(range(10))


def test_many_arrivals_stretch_a_running_stream_by_one_prompt_a_frame() -> None:
    device = DeviceModel(slots=8)
    scheduler = scheduler_on(device)
    running = Reader()
    scheduler.submit(frame_request(1 << 30), running)
    rounds(scheduler, 3)
    for seed in range(1, 8):
        scheduler.submit(frame_request(1 << 30, seed=seed), Reader())
    for _ in range(7):
        admitted, launched, got = len(device.admissions), len(device.launches), len(running.frames)
        scheduler.round()
        assert len(device.admissions) == admitted + 1
        assert len(device.launches) == launched + 1
        assert len(running.frames) == got + 1


def test_a_cancelled_request_is_out_of_its_slot_within_two_frames() -> None:
    device = DeviceModel(slots=1)
    scheduler = scheduler_on(device)
    left, waiting = Reader(), Reader()
    job = scheduler.submit(frame_request(1 << 30, seed=1), left)
    scheduler.submit(frame_request(2, seed=2), waiting)
    rounds(scheduler, 5)
    job.cancel()
    got, launched = len(left.frames), len(device.launches)
    until_idle(scheduler)
    assert left.ending == ("cancelled", None)
    assert len(left.frames) == got
    assert device.admissions == [1, 2]
    # No frame was launched for it after the one that was on the way.
    assert len(device.launches) - launched == 2 + 2
    assert waiting.ending == ("stop", None)


def test_a_request_may_be_cancelled_while_it_waits_and_after_its_end() -> None:
    device = DeviceModel(slots=1)
    scheduler = scheduler_on(device)
    first, second = Reader(), Reader()
    speaking = scheduler.submit(frame_request(3, seed=1), first)
    waiting = scheduler.submit(frame_request(3, seed=2), second)
    scheduler.round()
    waiting.cancel()
    until_idle(scheduler)
    speaking.cancel()
    until_idle(scheduler)
    assert first.ending == ("stop", None)
    assert second.ending == ("cancelled", None)
    assert second.frames == []
    assert device.admissions == [1]


def test_deadlines_end_who_speaks_who_waits_and_who_is_held() -> None:
    scheduler = scheduler_on(DeviceModel(slots=2))
    speaking, held, waiting = Reader(), Reader(), Reader()
    soon = time.monotonic() + 0.05
    for reader in (speaking, held, waiting):
        scheduler.submit(frame_request(1 << 30, deadline=soon), reader)
    rounds(scheduler, 4)
    held.held = True
    rounds(scheduler, 2)
    assert scheduler.stats().paused == 1
    time.sleep(0.06)
    until_idle(scheduler)
    assert [reader.ending for reader in (speaking, held, waiting)] == [("deadline", None)] * 3
    assert speaking.frames
    assert not waiting.frames


def test_a_slow_reader_is_held_and_loses_nothing_while_others_go_on() -> None:
    scheduler = scheduler_on(DeviceModel(slots=2))
    slow, quick = Reader(), Reader()
    scheduler.submit(frame_request(20, seed=1), slow)
    scheduler.submit(frame_request(30, seed=2), quick)
    rounds(scheduler, 6)
    slow.held = True
    at_most = len(slow.frames) + 1
    until_idle(scheduler)
    assert len(slow.frames) == at_most
    assert slow.endings == []
    assert quick.ending == ("stop", None)
    slow.held = False
    until_idle(scheduler)
    assert slow.frames == undisturbed(20, seed=1, max_frames=1000)[0]
    assert slow.ending == ("stop", None)


def test_the_batch_follows_the_number_of_voices() -> None:
    device = DeviceModel(slots=8)
    scheduler = scheduler_on(device)
    readers = [Reader() for _ in range(8)]
    jobs = [scheduler.submit(frame_request(60, seed=seed), reader) for seed, reader in enumerate(readers)]
    rounds(scheduler, 10)
    assert device.launches[-1][0] == 8
    # The four lowest leave: the four above come down one by one, and then the batch is theirs.
    for job in jobs[:4]:
        job.cancel()
    rounds(scheduler, 6)
    assert device.moves == [(7, 0), (6, 1), (5, 2), (4, 3)]
    assert device.launches[-1][0] == 4
    jobs[4].cancel()  # now in slot 3: nobody has to move
    rounds(scheduler, 3)
    assert device.launches[-1][0] == 4
    assert len(device.moves) == 4
    until_idle(scheduler)
    for seed in (5, 6, 7):
        assert readers[seed].frames == undisturbed(60, seed=seed, max_frames=1000)[0]


def test_nobody_moves_when_the_slot_is_about_to_be_filled() -> None:
    device = DeviceModel(slots=4)
    scheduler = scheduler_on(device)
    jobs = [scheduler.submit(frame_request(1 << 30, seed=seed), Reader()) for seed in range(3)]
    rounds(scheduler, 5)
    jobs[0].cancel()
    scheduler.submit(frame_request(1 << 30, seed=3), Reader())
    rounds(scheduler, 5)
    assert device.moves == []
    assert device.launches[-1] == (4, (True, True, True, False))


def test_a_held_reader_above_the_others_costs_no_rows() -> None:
    device = DeviceModel(slots=2)
    scheduler = scheduler_on(device)
    below, above = Reader(), Reader()
    for seed, reader in enumerate((below, above)):
        scheduler.submit(frame_request(1 << 30, seed=seed), reader)
    rounds(scheduler, 4)
    above.held = True
    rounds(scheduler, 2)
    assert device.launches[-1] == (1, (True,))


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (InputTooLong("too long", param="input"), InputTooLong),
        (RuntimeError("shape [3] is invalid"), EngineError),
        (KeyError("no such voice"), EngineError),
        (MemoryError("no memory"), EngineError),
    ],
)
def test_a_prompt_that_cannot_be_read_ends_its_request_only(
    refusal: Exception, told: type[EngineError]
) -> None:
    device = DeviceModel(slots=2)
    scheduler = scheduler_on(device)
    running, refused, later = Reader(), Reader(), Reader()
    scheduler.submit(frame_request(10, seed=1), running)
    rounds(scheduler, 3)
    scheduler.submit(frame_request(10, seed=2, refusal=refusal), refused)
    scheduler.submit(frame_request(4, seed=3), later)
    until_idle(scheduler)
    reason, error = refused.ending
    assert reason is None
    assert type(error) is told
    assert running.frames == undisturbed(10, seed=1, max_frames=1000)[0]
    assert later.frames == undisturbed(4, seed=3, max_frames=1000)[0]
    assert scheduler.stats().admissions == 2


def test_a_reader_that_fails_ends_its_request_only() -> None:
    scheduler = scheduler_on(DeviceModel(slots=2))
    failing, other = Reader(), Reader()
    failing.fails = RuntimeError("the decoder is gone")
    scheduler.submit(frame_request(5, seed=1), failing)
    scheduler.submit(frame_request(5, seed=2), other)
    until_idle(scheduler)
    reason, error = failing.ending
    assert reason is None
    assert isinstance(error, EngineError)
    assert "the decoder is gone" in error.message
    assert not isinstance(error, DeviceFault)
    assert other.frames == undisturbed(5, seed=2, max_frames=1000)[0]


def test_the_queue_is_bounded() -> None:
    scheduler = scheduler_on(DeviceModel(slots=1), queue_size=2)
    for _ in range(2):
        scheduler.submit(frame_request(5), Reader())
    with pytest.raises(QueueFull, match="2 requests wait"):
        scheduler.submit(frame_request(5), Reader())
    scheduler.round()
    scheduler.submit(frame_request(5), Reader())


def test_the_figures_are_those_of_what_happened() -> None:
    device = DeviceModel(slots=4)
    scheduler = scheduler_on(device)
    held = Reader()
    held.held = True
    scheduler.submit(frame_request(3, seed=0), Reader())
    scheduler.submit(frame_request(1 << 30, seed=1, max_frames=4), Reader())
    scheduler.submit(frame_request(5, seed=2), held)
    scheduler.submit(frame_request(5, refusal=InputTooLong("too long")), Reader())
    scheduler.submit(frame_request(5, seed=4), Reader()).cancel()
    empty = scheduler.stats()
    assert (empty.queued, empty.frames, empty.gap_p50_s, empty.since_last_frame_s) == (5, 0, None, None)
    until_idle(scheduler)
    stats = scheduler.stats()
    assert (stats.slots, stats.busy, stats.paused, stats.queued) == (4, 1, 1, 0)
    assert stats.frames == len(device.launches)
    assert (stats.admissions, stats.moves) == (3, len(device.moves))
    assert stats.finished == {"stop": 1, "length": 1, "cancelled": 1, "deadline": 0, "error": 1}
    assert stats.gap_p50_s is not None
    assert stats.gap_p95_s is not None
    assert stats.host_p50_s is not None
    assert 0.0 < stats.host_p50_s <= stats.gap_p50_s <= stats.gap_p95_s
    assert stats.since_last_frame_s is not None
