"""Continuous batching: requests share the frames of one device, and come and go between them.

One thread drives the device. A round launches frame n+1 and only then waits for frame n, so that the device
computes while this thread hands out codes. What ended with frame n is still in frame n+1, whose row is dropped.
(Where frames are computed by this very thread, on a CPU, a round launches and hands out the same frame.)

Between two frames there is at most one admission (prefill) or one move between slots, never both: whatever
arrives, a running stream's gap grows by one prefill at most.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..errors import DeviceFault, Draining, EngineError, QueueFull, TTSError, is_device_lost
from ..speech.listening import Finish
from .frame_times import FrameTimes
from .jobs import FrameRequest, FrameSink, Job
from .runner import FrameResult, FrameTicket, Runner
from .slots import Slots
from .watchdog import Overdue, Watchdog

__all__ = [
    "Finish",
    "FrameRequest",
    "FrameResult",
    "FrameSink",
    "FrameTicket",
    "Job",
    "Runner",
    "Scheduler",
    "SchedulerStats",
]

logger = logging.getLogger(__name__)

#: Frames take milliseconds on a GPU: this long is a device that hangs.
FRAME_LIMIT_S = 10.0
#: For whatever is used for the first time: it may have to be compiled and captured.
FIRST_USE_LIMIT_S = 300.0
#: How often readers, deadlines and the queue are looked at while no frame runs that would do it (seconds).
_LOOK_S = 0.02


@dataclass(frozen=True)
class SchedulerStats:
    """One moment. ``finished`` counts per :data:`Finish` and ``error``; gaps are seconds between frames."""

    slots: int
    busy: int
    paused: int
    queued: int
    frames: int
    admissions: int
    moves: int
    finished: Mapping[str, int]
    #: Median and 95th percentile of the newest 1024 gaps, and the median of what the loop's thread does in one
    #: besides waiting (on a CPU that is the frame itself).
    gap_p50_s: float | None
    gap_p95_s: float | None
    host_p50_s: float | None
    since_last_frame_s: float | None


@dataclass(slots=True)
class _Flight:
    """A launched frame and who sat in its rows then; None where nobody did, or somebody who was held."""

    ticket: FrameTicket
    jobs: list[Job | None]


class Scheduler:
    """Runs requests on ``runner``.

    ``eos`` is the code of codebook 0 that ends speech. ``on_device_fault`` is told once that the device is
    lost: nothing runs any more and the process should end. It is called after all sinks have been told.
    ``frame_limit_s`` is how long a frame may take before the device counts as lost, ``first_use_limit_s`` the
    same for a frame, prompt length or move of a kind that was not run before.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        eos: int,
        on_device_fault: Callable[[DeviceFault], None],
        queue_size: int = 64,
        frame_limit_s: float = FRAME_LIMIT_S,
        first_use_limit_s: float = FIRST_USE_LIMIT_S,
    ) -> None:
        self._runner = runner
        self._eos = eos
        self._on_device_fault = on_device_fault
        self._queue_size = queue_size
        self._frame_limit_s, self._first_use_limit_s = frame_limit_s, first_use_limit_s
        self._slots: Slots[Job] = Slots(runner.slots, runner.batch_sizes)
        self._used: set[tuple[str, int]] = set()
        self._queue: deque[Job] = deque()
        self._flight: _Flight | None = None
        # Guards the queue, the slots' occupants, how jobs end, and the flags below.
        self._changed = threading.Condition()
        self._news = False
        self._closed = False
        self._aborted = False
        self._fault: str | None = None
        self._watchdog = Watchdog(self._fail, shortest_s=frame_limit_s)
        self._thread = threading.Thread(target=self._run, name="frames", daemon=True)
        self._frames = self._admissions = self._moves = 0
        self._finished = dict.fromkeys(("stop", "length", "cancelled", "deadline", "error"), 0)
        self._gaps, self._host = FrameTimes(), FrameTimes()
        self._read_at: float | None = None
        self._unbroken = False

    def start(self) -> None:
        """Begin to serve, on a thread of its own."""
        self._watchdog.start()
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Take no more requests, finish the accepted ones, and give up what is left after ``timeout_s``.

        Those end with Draining. True when nothing had to be given up.
        """
        with self._changed:
            self._closed = True
            self._wake()
        self._thread.join(timeout_s)
        drained = not self._thread.is_alive()
        with self._changed:
            self._aborted = True
            self._wake()
        # Not longer than a frame: if it hangs in one, the watchdog has ended what was left.
        self._thread.join(self._frame_limit_s + 1.0)
        self._watchdog.stop()
        return drained and self._fault is None

    def submit(self, request: FrameRequest, sink: FrameSink) -> Job:
        """Queue a request; first come, first served. Any thread.

        Raises QueueFull, Draining after :meth:`stop`, DeviceFault when the device is lost.
        """
        job = Job(request, sink, self._wake)
        with self._changed:
            if self._fault is not None:
                raise DeviceFault(self._fault)
            if self._closed:
                raise Draining("the service is going down and takes no new work", retry_after_s=5.0)
            if len(self._queue) >= self._queue_size:
                raise QueueFull(
                    f"{len(self._queue)} requests wait for a slot and {self._queue_size} may: try again later",
                    retry_after_s=1.0,
                )
            self._queue.append(job)
            self._wake()
        return job

    def stats(self) -> SchedulerStats:
        """Counts and times, for metrics. Any thread."""
        with self._changed:
            live = self._slots.live()
            queued, finished = len(self._queue), dict(self._finished)
        gaps, host = self._gaps.percentiles(50, 95), self._host.percentiles(50)
        return SchedulerStats(
            slots=self._runner.slots,
            busy=len(live),
            paused=sum(job.paused for job in live),
            queued=queued,
            frames=self._frames,
            admissions=self._admissions,
            moves=self._moves,
            finished=finished,
            gap_p50_s=gaps[0] if gaps else None,
            gap_p95_s=gaps[1] if gaps else None,
            host_p50_s=host[0] if host else None,
            since_last_frame_s=None if self._read_at is None else time.monotonic() - self._read_at,
        )

    def round(self) -> bool:
        """Let whoever must leave go, let one in or move one, launch a frame, hand out the one before.

        :meth:`start` does this for ever. False when there was nothing to do. Raises what the runner raises,
        and then no further round may follow.
        """
        self._release()
        changed = self._admit() or self._compact()
        launched = self._launch()
        if self._runner.computes_at_launch:
            before = launched
        else:
            before, self._flight = self._flight, launched
        if before is None:
            self._unbroken = False
        else:
            self._deliver(before)
        return changed or before is not None or self._flight is not None

    def _wake(self) -> None:
        with self._changed:
            self._news = True
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while self.round() or self._rest():
                pass
        except Overdue:
            return  # everybody has been told by the watchdog
        except Exception as error:
            logger.exception("the frame loop failed")
            self._fail(f"{type(error).__name__}: {error}")

    def _rest(self) -> bool:
        """Sleep until there may be something to do; false when there never will be."""
        with self._changed:
            occupied = bool(self._queue or self._slots.live())
            if self._closed and not occupied:
                return False
            self._changed.wait_for(lambda: self._news, _LOOK_S if occupied else None)
            self._news = False
        return True

    def _release(self) -> None:
        """End what was cancelled or is out of time."""
        now = time.monotonic()
        for job in (*self._slots.live(), *self._queue):
            if job.cancelled:
                self._end(job, "cancelled")
            elif now >= job.deadline:
                self._end(job, "deadline")
            elif self._aborted:
                self._end(job, None, Draining("the service is going down", retry_after_s=5.0))

    def _admit(self) -> bool:
        slot = self._slots.lowest_free()
        if slot is None or not self._queue:
            return False
        with self._changed:
            job = self._queue.popleft()
            self._slots.occupants[slot], job.slot = job, slot
        request, job.request = job.request, None
        assert request is not None
        # All but the last position is read, padded to a power of two: such lengths are compiled together.
        kind = ("reading a prompt", max(len(request.prompt.embeds) - 2, 0).bit_length())
        try:
            with self._watch(*kind):
                self._runner.admit(slot, request.prompt, request.sampling, request.seed, request.max_frames)
        except Overdue:
            raise
        except Exception as error:
            if is_device_lost(error):
                raise
            if not isinstance(error, TTSError):
                logger.exception("a request could not be admitted")
                error = EngineError(f"the prompt could not be read: {error}")
            self._end(job, None, error)
        else:
            self._used.add(kind)
            self._admissions += 1
        return True

    def _compact(self) -> bool:
        places = self._slots.worthwhile_move()
        if places is None:
            return False
        source, target = places
        with self._watch("moving a slot", 0):
            self._runner.move(source, target)
        self._used.add(("moving a slot", 0))
        with self._changed:
            occupants = self._slots.occupants
            job = occupants[source]
            assert job is not None
            occupants[source], occupants[target], job.slot = None, job, target
        self._moves += 1
        return True

    def _launch(self) -> _Flight | None:
        """A frame of everybody who is not held; None when there is nobody."""
        rows, last = list(self._slots.occupants), -1
        for slot, job in enumerate(rows):
            if job is None:
                continue
            if self._holds(job):
                rows[slot] = None
            else:
                last = slot
        if last < 0:
            return None
        batch = self._slots.batch_size(last + 1)
        del rows[batch:]
        kind = ("launching a frame", batch)
        # On a CPU frames are computed in here, and every new length of the cache may have to be compiled.
        with self._watch(*kind, always_new=self._runner.computes_at_launch):
            ticket = self._runner.launch(batch, [job is not None for job in rows])
        self._used.add(kind)
        return _Flight(ticket, rows)

    def _holds(self, job: Job) -> bool:
        try:
            job.paused = job.sink.full()
        except Exception as error:
            logger.exception("a request's reader failed")
            self._end(job, None, _reader_failed(error))
            return True
        return job.paused

    def _deliver(self, flight: _Flight) -> None:
        kind = ("a frame", len(flight.jobs))
        began = time.monotonic()
        with self._watch(*kind):
            result = flight.ticket.read()
        self._used.add(kind)
        self._note_times(began, time.monotonic())
        codes, done = result.codes, result.done.tolist()
        for row, job in enumerate(flight.jobs):
            # It may have left, and its slot may have a new occupant, since the frame was launched.
            if job is None or job.ended or job.cancelled:
                continue
            if done[row] and codes[row, 0] == self._eos:
                self._end(job, "stop")
                continue
            try:
                job.sink.frame(codes[row])
            except Exception as error:
                logger.exception("a request's reader failed")
                self._end(job, None, _reader_failed(error))
                continue
            job.frames += 1
            if done[row]:
                self._end(job, "length")

    def _note_times(self, began: float, ended: float) -> None:
        self._frames += 1
        if self._unbroken and self._read_at is not None:
            self._gaps.add(ended - self._read_at)
            self._host.add(began - self._read_at)
        self._unbroken, self._read_at = True, ended

    def _watch(self, call: str, kind: int, *, always_new: bool = False) -> Watchdog:
        first = always_new or (call, kind) not in self._used
        return self._watchdog.watch(call, self._first_use_limit_s if first else self._frame_limit_s)

    def _end(self, job: Job, reason: Finish | None, error: TTSError | None = None) -> None:
        with self._changed:
            if job.ended:
                return
            job.ended, job.request = True, None
            if job.slot is not None:
                self._slots.occupants[job.slot] = None
            elif job in self._queue:
                self._queue.remove(job)
            self._finished[reason or "error"] += 1
        try:
            job.sink.finished(reason, error)
        except Exception:
            logger.exception("a request's end could not be told")

    def _fail(self, cause: str) -> None:
        """The device is lost: tell everybody. On the loop's thread or, when that hangs, on the watchdog's."""
        with self._changed:
            if self._fault is not None:
                return
            self._fault = f"the device is lost: {cause}"
            jobs = [*self._slots.live(), *self._queue]
        logger.error("%s; %d requests end", self._fault, len(jobs))
        for job in jobs:
            self._end(job, None, DeviceFault(self._fault))
        self._on_device_fault(DeviceFault(self._fault))


def _reader_failed(error: Exception) -> EngineError:
    return EngineError(f"the frames could not be taken: {error}")
