"""torch's thread counts: how a thread gets its own without changing anybody else's.

``torch.set_num_threads`` (OpenMP builds, measured with torch 2.13 on two cores) changes two things: the count
of the *calling thread*, for matrix products, convolutions and element-wise operations alike, and the count
that *every thread takes over at its first parallel operation*. A thread that has taken one over keeps it
whatever others set. So a codec thread first asks for its count, which makes it take over the process's, then
sets its own, and a passing thread puts the process's count back.

The engine's count (``load(cpu_threads=...)``, set on the thread that loads) is thereby untouched. Where both
run on the CPU each may have all cores: they take turns (:mod:`..cores`).

A compiled function depends on the count twice: it is compiled into the loops, and torch compiles anew when
the function is called under another count. So what is compiled for a thread is compiled on that thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

_LOCK = threading.Lock()


def own_thread_count(threads: int) -> None:
    """Give the calling thread ``threads`` torch threads and leave every other thread's count as it is.

    0 changes nothing.
    """
    if not threads:
        return
    with _LOCK:
        torch.get_num_threads()
        before: list[int] = []
        _pass(lambda: before.append(torch.get_num_threads()))
        torch.set_num_threads(threads)
        _pass(lambda: torch.set_num_threads(before[0]))


def _pass(action: Callable[[], None]) -> None:
    thread = threading.Thread(target=action, name="thread-count")
    thread.start()
    thread.join()
