"""The cores' turns: one thread at a time, in the order of asking, and one OpenMP team."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from qwen3_tts_service.codec.threads import own_thread_count
from qwen3_tts_service.cores import Cores

WAIT_S = 10.0


def on_thread(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def test_turns_come_in_the_order_of_asking_whoever_takes_them_first() -> None:
    cores, order = Cores(), list[int]()
    with cores.turn():
        turns = [cores.turn() for _ in range(5)]

        def take(number: int) -> None:
            with turns[number]:
                order.append(number)

        threads = [on_thread(lambda number=number: take(number)) for number in reversed(range(5))]  # type: ignore[misc]
        time.sleep(0.05)
        assert order == []
    for thread in threads:
        thread.join(WAIT_S)
    assert order == [0, 1, 2, 3, 4]


def test_two_threads_never_have_the_cores_at_once() -> None:
    cores, inside, most = Cores(), 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(200):
            with cores.turn():
                inside += 1
                most = max(most, inside)
                time.sleep(0)
                inside -= 1

    threads = [on_thread(work) for _ in range(4)]
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert (inside, most) == (0, 1)


@pytest.mark.parametrize("given_up", [0, 1], ids=["which was next", "behind another"])
def test_a_turn_that_is_given_up_holds_nobody(given_up: int) -> None:
    cores, came = Cores(), threading.Event()
    with cores.turn():
        turns = [cores.turn(), cores.turn()]
        turns.pop(given_up).cancel()

        def take() -> None:
            with turns[0]:
                came.set()

        on_thread(take)
    assert came.wait(WAIT_S)
    with cores.turn():
        pass


def test_an_error_ends_a_turn() -> None:
    cores = Cores()
    with pytest.raises(ValueError, match="wrong"), cores.turn():
        raise ValueError("wrong")
    with cores.turn():
        pass


@pytest.mark.parametrize("shared", [True, False])
def test_where_cores_are_shared_no_team_outlives_its_turn(shared: bool) -> None:
    """Teams of several threads together would be more than the cores, and none may spin then."""
    cores, ended = Cores(), threading.Event()
    cores.shared = shared
    inside: list[int] = []
    counts: list[int] = []

    def compute() -> None:
        own_thread_count(4)
        with cores.turn():
            torch.ones(1 << 20).sin()
            inside.append(len(list(Path("/proc/self/task").iterdir())))
        counts.append(torch.get_num_threads())
        assert ended.wait(WAIT_S)

    thread = on_thread(compute)
    until = time.monotonic() + WAIT_S
    while not counts:
        assert time.monotonic() < until
        time.sleep(0.001)
    wanted = inside[0] - 3 if shared else inside[0]
    while len(list(Path("/proc/self/task").iterdir())) != wanted:
        assert time.monotonic() < until
        time.sleep(0.001)
    ended.set()
    thread.join(WAIT_S)
    assert counts == [4]
