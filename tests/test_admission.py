"""Who is next, who has to wait, who has to go."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3_tts_service import admission
from qwen3_tts_service.admission import Limits, Place, WaitingRoom
from qwen3_tts_service.errors import Cancelled, DeadlineExceeded, Draining, QueueFull, WaitedTooLong
from server_process import wait_for

FOREVER = 1e12


class Clock:
    """Time that passes only when told to; events and threads keep their own."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(admission, "time", clock)
    return clock


class Door:
    """Requests that come in one after the other, each on a thread of its own."""

    def __init__(self, places: int, limits: Limits, pool: ThreadPoolExecutor) -> None:
        self.room = WaitingRoom(places, limits)
        self.places: list[tuple[str, Place]] = []
        self._pool = pool
        self._lock = threading.Lock()

    def comes(
        self, client: str, deadline: float = FOREVER, gone: Callable[[], bool] = lambda: False
    ) -> Future[Place]:
        """Returns when it waits, speaks or was refused."""
        before = self.requests_of(client)

        def enter() -> Place:
            place = self.room.enter(client, deadline=deadline, gone=gone)
            with self._lock:
                self.places.append((client, place))
            return place

        future = self._pool.submit(enter)
        wait_for(lambda: future.done() or self.requests_of(client) != before, f"{client} is in")
        return future

    def requests_of(self, client: str) -> tuple[int, int]:
        """How many of its requests wait and speak."""
        known = self.room._clients.get(client)
        return (len(known.waiting), known.speaking) if known else (0, 0)

    def leaves(self) -> None:
        """The longest-speaking ends."""
        wait_for(lambda: self.places, "a place")
        self.places.pop(0)[1].leave()

    def one_leaves(self) -> str:
        """And this is whose turn comes then."""
        wait_for(lambda: len(self.places) == self.room.load[1], "all have their places")
        count = len(self.places)
        self.leaves()
        wait_for(lambda: len(self.places) == count, "the next one's turn")
        return self.places[-1][0]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as executor:
        yield executor


@pytest.fixture
def door(pool: ThreadPoolExecutor) -> Iterator[Callable[..., Door]]:
    made: list[Door] = []

    def make(places: int = 1, **limits: float) -> Door:
        made.append(Door(places, Limits(**{"queue_size": 8} | limits), pool))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        while one.room.load[1]:
            one.leaves()


def test_of_one_client_whoever_came_first_is_next(door: Callable[..., Door], clock: Clock) -> None:
    at = door(queue_size=4)
    first = at.comes("a").result()
    waiting = [at.comes("a") for _ in range(3)]
    assert at.room.load == (1, 1, 3)
    for number, future in enumerate(waiting):
        at.one_leaves()
        assert future.result(1) is not first
        assert [other.done() for other in waiting] == [n <= number for n in range(3)]


def test_clients_take_turns_whoever_sends_more(door: Callable[..., Door], clock: Clock) -> None:
    at = door()
    for client in "aaaaabb":
        at.comes(client)
    turns = []
    for _ in range(6):
        clock.now += 1
        turns.append(at.one_leaves())
    assert "".join(turns) == "babaaa"


def test_shares_are_of_time_and_not_of_requests(door: Callable[..., Door], clock: Clock) -> None:
    """One client's requests take three times as long: it gets a third as many turns."""
    at = door(queue_size=20)
    for client in "llllssssssss":
        at.comes(client)
    held = Counter[str]()
    for _ in range(8):
        took = 3 if at.places[0][0] == "l" else 1
        held[at.places[0][0]] += took
        clock.now += took
        at.one_leaves()
    assert held == {"l": 6, "s": 6}


def test_whoever_was_away_has_no_claim_on_that_time(door: Callable[..., Door], clock: Clock) -> None:
    at = door()
    for client in "aaaa":
        at.comes(client)
        clock.now += 50
    for client in "bbb":
        at.comes(client)
    turns = []
    for _ in range(5):
        clock.now += 1
        turns.append(at.one_leaves())
    assert turns.count("b") == 3
    assert "".join(turns[:4]) in ("baba", "bbab", "abab")


def test_a_full_queue_makes_room_for_who_has_less_of_it(door: Callable[..., Door]) -> None:
    at = door(queue_size=4)
    at.comes("a")
    crowd = [at.comes("a") for _ in range(4)]
    with pytest.raises(QueueFull, match="4 requests are waiting and 4 may"):
        at.comes("a").result(1)
    newcomers = [at.comes("b"), at.comes("b")]
    with pytest.raises(QueueFull, match="another client has fewer"):
        crowd[3].result(1)
    with pytest.raises(QueueFull, match="another client has fewer"):
        crowd[2].result(1)
    assert at.room.load == (1, 1, 4)
    # Two and two: nobody has to go for a fifth.
    with pytest.raises(QueueFull, match="4 requests are waiting"):
        at.comes("b").result(1)
    with pytest.raises(QueueFull):
        at.room.refuse_if_full("b")
    at.room.refuse_if_full("c")
    assert not any(future.done() for future in [*crowd[:2], *newcomers])


def test_one_client_has_no_more_than_its_streams_and_the_others_have_the_rest(
    door: Callable[..., Door],
) -> None:
    at = door(places=4, client_streams=2)
    crowd = [at.comes("a") for _ in range(4)]
    assert [future.done() for future in crowd] == [True, True, False, False]
    assert at.room.load == (4, 2, 2)
    others = [at.comes("b"), at.comes("b")]
    assert all(future.result(1) for future in others)
    at.leaves()
    assert crowd[2].result(1)
    assert not crowd[3].done()


def test_without_a_queue_a_place_that_is_free_is_taken_and_no_other(door: Callable[..., Door]) -> None:
    at = door(places=2, queue_size=0)
    at.comes("a").result(1)
    at.comes("b").result(1)
    with pytest.raises(QueueFull, match="0 requests are waiting and 0 may"):
        at.comes("c").result(1)
    at.leaves()
    assert at.comes("c").result(1)


def test_when_to_return_follows_the_measured_time(door: Callable[..., Door], clock: Clock) -> None:
    at = door(places=2, queue_size=1)
    for _ in range(30):
        place = at.comes("a").result(1)
        clock.now += 40
        at.places.clear()
        place.leave()
    for _ in range(3):
        at.comes("a")
    with pytest.raises(QueueFull) as caught:
        at.comes("a").result(1)
    assert caught.value.retry_after_s == pytest.approx(20, rel=0.01)
    # One is ahead of whoever comes back only when the queue has moved.
    assert at.room.too_late().retry_after_s == pytest.approx(40, rel=0.01)


def test_the_longest_wait_has_an_error_of_its_own(door: Callable[..., Door], clock: Clock) -> None:
    at = door(max_wait_s=5)
    at.comes("a")
    waits = at.comes("a")
    clock.now += 5.1
    with pytest.raises(WaitedTooLong, match="waited for 5 s") as caught:
        waits.result(1)
    assert (caught.value.code, at.room.load) == ("queue_wait", (1, 1, 0))


def test_a_deadline_ends_the_wait(door: Callable[..., Door], clock: Clock) -> None:
    at = door()
    at.comes("a")
    waits = at.comes("a", deadline=clock.now + 2)
    clock.now += 2.1
    with pytest.raises(DeadlineExceeded):
        waits.result(1)
    assert at.room.load == (1, 1, 0)


def test_whoever_is_gone_has_no_place_that_another_could_have(door: Callable[..., Door]) -> None:
    """Not even for the moment until it is looked at."""
    at = door(queue_size=1)
    at.comes("a")
    left = threading.Event()
    leaver = at.comes("a", gone=left.is_set)
    left.set()
    at.room.refuse_if_full("b")
    next_one = at.comes("b")
    with pytest.raises(Cancelled):
        leaver.result(1)
    at.one_leaves()
    assert next_one.result(1)


def test_closed_means_nobody_new(door: Callable[..., Door]) -> None:
    at = door()
    at.comes("a")
    waits = at.comes("a")
    assert at.room.close_when_idle() is False
    at.room.close()
    with pytest.raises(Draining):
        at.comes("a").result(1)
    assert at.room.wait_until_idle(0) is False
    at.one_leaves()
    waits.result(1)
    at.leaves()
    assert at.room.wait_until_idle(1) is True
    assert at.room.close_when_idle() is True


@given(
    places=st.integers(1, 3),
    queue_size=st.integers(0, 4),
    client_streams=st.integers(0, 2),
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=25),
)
def test_whatever_comes_and_leaves_the_counts_are_true(
    places: int, queue_size: int, client_streams: int, steps: list[tuple[str, bool]]
) -> None:
    """No thread: tickets are queued as ``enter`` does, and called by whoever leaves."""
    room = WaitingRoom(places, Limits(queue_size, client_streams=client_streams))
    tickets: list[tuple[str, admission._Ticket]] = []
    for client, comes in steps:
        if comes:
            with contextlib.suppress(QueueFull):
                tickets.append((client, room._queue(client, lambda: False)))
        elif speaking := [item for item in tickets if item[1].place is not None]:
            tickets.remove(speaking[0])
            speaking[0][1].place.leave()  # type: ignore[union-attr]
        tickets = [item for item in tickets if item[1].error is None]
        speaks = Counter(client for client, ticket in tickets if ticket.place is not None)
        waits = Counter(client for client, ticket in tickets if ticket.place is None)
        assert room.load == (places, speaks.total(), waits.total())
        assert speaks.total() <= places
        assert waits.total() <= queue_size
        if client_streams:
            assert all(count <= client_streams for count in speaks.values())
        # Nobody waits for a place that is free.
        if speaks.total() < places:
            assert all(client_streams and speaks[client] == client_streams for client in waits)
