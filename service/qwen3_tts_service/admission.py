"""Who speaks next: the bounded waiting room in front of a model's places.

Between clients (the names of API keys) turns are fair by the seconds for which each held a place: whoever held
the least is next, and of one client whoever came first. The queue is shared the same way: when it is full, the
newest request of the client that has most in it makes way for one of a client that has clearly fewer.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from .errors import Cancelled, DeadlineExceeded, Draining, QueueFull, TTSError, WaitedTooLong

#: The client of requests that come without a key.
NO_KEY = "-"
#: How often a waiting request looks at its client and its deadline (seconds).
_LOOK_S = 0.05
#: Weight of the newest request in the running mean of durations.
_NEWEST = 0.3


@dataclass(frozen=True)
class Limits:
    """What may wait: requests, and seconds of each. How many may speak at a time: of one client, and of all.

    0: of one client any number, of all as many as the host sustains.
    """

    queue_size: int
    max_wait_s: float = math.inf
    client_streams: int = 0
    streams: int = 0


@dataclass(eq=False)
class _Ticket:
    """A request in the room; ``called`` when it is its turn, or when it has to leave with ``error``."""

    client: _Client
    number: int
    gone: Callable[[], bool]
    called: threading.Event = field(default_factory=threading.Event)
    place: Place | None = None
    error: TTSError | None = None


class _Client:
    """One client's requests, and the seconds for which it held places."""

    def __init__(self) -> None:
        self.waiting: deque[_Ticket] = deque()
        self.speaking = 0
        self._held_s = 0.0
        self._sum_of_starts = 0.0

    def held_s(self, now: float) -> float:
        """Those of what it speaks now included."""
        return self._held_s + self.speaking * now - self._sum_of_starts

    def owes_at_least(self, held_s: float, now: float) -> None:
        """Whoever was away has no claim on the time before it came."""
        self._held_s += max(0.0, held_s - self.held_s(now))

    def begin(self, now: float) -> None:
        self.speaking += 1
        self._sum_of_starts += now

    def end(self, began: float, now: float) -> None:
        self.speaking -= 1
        self._sum_of_starts -= began
        self._held_s += now - began


class Place:
    """A turn to speak, since ``began`` (a time of :func:`time.monotonic`). Whoever holds it leaves it, once."""

    def __init__(self, room: WaitingRoom, client: _Client, began: float) -> None:
        self._room = room
        self._client = client
        self.began = began

    def leave(self) -> None:
        """The next one's turn."""
        self._room._leave(self._client, self.began)


class WaitingRoom:
    """``places`` may speak at a time, the others wait within ``limits``. Any thread may call anything."""

    def __init__(self, places: int, limits: Limits) -> None:
        self._places = places
        self._limits = limits
        # Tells whoever waits for the room to be empty; each ticket has an event of its own.
        self._changed = threading.Condition()
        self._clients: dict[str, _Client] = {}
        self._numbers = itertools.count()
        self._speaking = self._waiting = 0
        self._closed = False
        self._mean_s = 1.0

    def refuse_if_full(self, client: str) -> None:
        """Raise what :meth:`enter` would raise at once: Draining, or QueueFull. Takes no place."""
        with self._changed:
            mine = self._clients.get(client) or _Client()
            self._refuse_when_closed()
            if not self._may_begin(mine) and self._is_full() and self._who_makes_way(mine) is None:
                raise self._full()

    def enter(self, client: str, *, deadline: float, gone: Callable[[], bool]) -> Place:
        """Wait for a turn. Blocks; the caller leaves the place.

        ``deadline`` is a time of :func:`time.monotonic`. Raises Draining, QueueFull (at once, or when it has to
        make way), WaitedTooLong, DeadlineExceeded, and Cancelled when ``gone`` says that nobody waits any more.
        """
        longest = time.monotonic() + self._limits.max_wait_s
        ticket = self._queue(client, gone)
        try:
            while not ticket.called.wait(_LOOK_S):
                now = time.monotonic()
                if gone():
                    raise Cancelled("the client went away while its request waited")
                if now > deadline:
                    raise self.too_late()
                if now > longest:
                    raise WaitedTooLong(
                        f"the request waited for {self._limits.max_wait_s:g} s, which is the longest that one may: "
                        "try again later",
                        retry_after_s=self._retry_after_s(0),
                    )
        except BaseException:
            self._give_up(ticket)
            raise
        if ticket.error is not None:
            raise ticket.error
        assert ticket.place is not None
        return ticket.place

    def too_late(self) -> DeadlineExceeded:
        """The error of a request that ran out of time."""
        return DeadlineExceeded(
            "the request was not finished within its time: shorten the text, or try again when less is going on",
            retry_after_s=self._retry_after_s(self._waiting),
        )

    @property
    def load(self) -> tuple[int, int, int]:
        """How many may speak at a time, speak and wait."""
        with self._changed:
            return self._places, self._speaking, self._waiting

    def close(self) -> None:
        """Let nobody in any more; those that wait or speak are finished."""
        with self._changed:
            self._closed = True

    def close_when_idle(self) -> bool:
        """Let nobody in any more, when none waits or speaks; says whether that was so."""
        with self._changed:
            self._closed = self._closed or not (self._speaking or self._waiting)
            return self._closed

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Block until nothing waits or speaks; false when ``timeout_s`` seconds were not enough."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._speaking or self._waiting), timeout_s)

    def _queue(self, name: str, gone: Callable[[], bool]) -> _Ticket:
        """A ticket behind those of its client; called at once when a place is free."""
        with self._changed:
            self._refuse_when_closed()
            client = self._clients.setdefault(name, _Client())
            if not self._may_begin(client) and self._is_full():
                self._make_way_for(client)
            now = time.monotonic()
            active = [other for other in self._clients.values() if other.speaking or other.waiting]
            if active and client not in active:
                client.owes_at_least(min(other.held_s(now) for other in active), now)
            ticket = _Ticket(client, next(self._numbers), gone)
            client.waiting.append(ticket)
            self._waiting += 1
            self._call()
            return ticket

    def _make_way_for(self, client: _Client) -> None:
        """A place in the full queue. Raises QueueFull when there is none for this client."""
        leaver = self._who_makes_way(client)
        if leaver is None:
            raise self._full()
        leaver.error = (
            Cancelled("the client went away while its request waited")
            if leaver.gone()
            else QueueFull(
                f"{self._limits.queue_size} requests may wait, and another client has fewer of them: try again later",
                retry_after_s=self._retry_after_s(0),
            )
        )
        self._remove(leaver)
        leaver.called.set()

    def _who_makes_way(self, client: _Client) -> _Ticket | None:
        """Whose client has gone, else the newest of who has most; None where that would be no fairer."""
        for other in self._clients.values():
            if lost := next((ticket for ticket in other.waiting if ticket.gone()), None):
                return lost
        most = max(self._clients.values(), key=lambda other: len(other.waiting), default=client)
        return most.waiting[-1] if len(most.waiting) > len(client.waiting) + 1 else None

    def _call(self) -> None:
        """Give the free places to those whose turn it is."""
        now = time.monotonic()
        while self._speaking < self._places:
            able = [client for client in self._clients.values() if client.waiting and self._has_turns(client)]
            if not able:
                return
            client = min(able, key=lambda client: (client.held_s(now), client.waiting[0].number))
            ticket = client.waiting[0]
            self._remove(ticket)
            client.begin(now)
            self._speaking += 1
            ticket.place = Place(self, client, now)
            ticket.called.set()

    def _remove(self, ticket: _Ticket) -> None:
        ticket.client.waiting.remove(ticket)
        self._waiting -= 1
        self._changed.notify_all()

    def _give_up(self, ticket: _Ticket) -> None:
        with self._changed:
            if ticket in ticket.client.waiting:
                self._remove(ticket)
                return
        # Its turn came between the look and this.
        if ticket.place is not None:
            ticket.place.leave()

    def _leave(self, client: _Client, began: float) -> None:
        with self._changed:
            now = time.monotonic()
            client.end(began, now)
            self._speaking -= 1
            self._mean_s += _NEWEST * (now - began - self._mean_s)
            self._call()
            self._changed.notify_all()

    def _has_turns(self, client: _Client) -> bool:
        return not self._limits.client_streams or client.speaking < self._limits.client_streams

    def _may_begin(self, client: _Client) -> bool:
        """Whether a newcomer would be called at once: nobody who could be called waits for a free place."""
        return self._speaking < self._places and self._has_turns(client)

    def _is_full(self) -> bool:
        return self._waiting >= self._limits.queue_size

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise Draining("the service is going down and takes no new work", retry_after_s=5.0)

    def _full(self) -> QueueFull:
        return QueueFull(
            f"{self._waiting} requests are waiting and {self._limits.queue_size} may: try again later",
            retry_after_s=self._retry_after_s(0),
        )

    def _retry_after_s(self, ahead: int) -> float:
        """Until a place is free and ``ahead`` requests had theirs, by the measured mean."""
        return max(1.0, self._mean_s * (1 + ahead) / self._places)
