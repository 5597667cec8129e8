"""The processor's cores as one thing, with which one thread at a time computes.

Language model and codec both use all cores. At the same time they take them from each other: an operation on
all cores waits for its slowest part, and a frame has two thousand of them. Taking turns, each has the cores to
itself, and the time of both is their sum.

There is a second reason. OpenMP keeps a team of threads for every thread that has computed in parallel, and
lets the members of a team spin between two operations, so that the next begins at once. When the teams of all
threads together have more members than there are cores, libgomp lets none of them spin: each operation then
wakes its team out of the kernel. So where several threads compute, each gives its team up when its turn is over.
A new one is not free: some 10 ms a turn on a virtual machine of two cores, where frames of a 0.6B model in float32
took 650 ms with it and 710 without (medians of three requests each), and those of a toy model 86 ms and 60.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque

#: ``omp_pause_soft`` of OpenMP 5.0: threads are given up, settings stay.
_PAUSE_SOFT = 1


class Turn:
    """A place in the queue for the cores: enter it to wait for them and have them, or cancel it.

    Whoever is behind waits until one of both has happened. A turn is short (a frame, a chunk of sound, a
    prompt; neither loading nor compiling) and holds no other turn.
    """

    def __init__(self, cores: Cores) -> None:
        self._cores = cores
        self._come = threading.Event()

    def __enter__(self) -> None:
        self._come.wait()

    def __exit__(self, *_: object) -> None:
        self._cores.give_up_team()
        self._cores._pass_on(self)

    def cancel(self) -> None:
        """Leave the queue instead of entering."""
        self._cores._pass_on(self)


class Cores:
    """Lets one thread after the other compute, first come, first served."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # The first one has the cores.
        self._queue: deque[Turn] = deque()
        #: Whether several threads compute by turns.
        self.shared = False

    def turn(self) -> Turn:
        """The next place in the queue, for the calling thread or another one."""
        turn = Turn(self)
        with self._lock:
            self._queue.append(turn)
            self._queue[0]._come.set()
        return turn

    def give_up_team(self) -> None:
        """Where the cores are shared: end the calling thread's team; its next operation makes another.

        For a thread that has computed outside of a turn and will not soon again. Does nothing with an OpenMP
        older than 5.0.
        """
        if not self.shared:
            return
        # torch loads its OpenMP for the whole process: the one that its operations, compiled code and the
        # codec's kernels run on, whatever others are loaded.
        pause = getattr(ctypes.CDLL(None), "omp_pause_resource_all", None)
        if pause is not None:
            pause(_PAUSE_SOFT)

    def _pass_on(self, turn: Turn) -> None:
        with self._lock:
            self._queue.remove(turn)
            if self._queue:
                self._queue[0]._come.set()


#: Of the process.
cores = Cores()
