"""More than the host can serve: what is left of its capacity then, and who gets it?

First as many clients as are served at a time ask again and again, which shows how much sound the host makes at most.
Then requests come at twice that rate, whether the ones before were answered or not (open loop), with three API keys
of which one sends nearly half. Each key should get a third of what is served, and nobody anything but sound or 429.
"""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import random
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints.load import inspect
from ..errors import EngineError
from ..speech.request import FRAMES_A_SECOND
from . import provenance
from .plan import Plan
from .process_memory import resident_of_family
from .report import Cell, Column, Report, Table
from .serve_suite import request_body, speaking_server
from .server import FIRST_SOUND_BYTES, Server
from .statistics import percentile

CLIENTS = 64
#: The keys, and what part of all requests comes with each: all ask for more than a third of the capacity.
KEYS: Mapping[str, float] = {"first": 0.45, "second": 0.30, "third": 0.25}
_TIMES_CAPACITY = 2.0
#: The first part of each measurement does not count: places are taken, caches are filled.
_SETTLES = 0.2
#: Capacity is measured for this part of the time, and no longer than this (seconds).
_CAPACITY_PART, _CAPACITY_MOST_S = 0.2, 30.0
_BYTES_A_SECOND = FIRST_SOUND_BYTES * FRAMES_A_SECOND
_LOOK_S, _PATIENCE_S = 0.5, 120.0
_EXPECTED = ("200", "429")
_MIB = 1 << 20


@dataclass
class Heard:
    """What clients heard in one phase. Sound counts when it arrives, requests when they end, between two times.

    What is neither sound nor 429 counts at any time.
    """

    since: float
    until: float
    sound_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    #: How requests ended: by status, or by the name of what a client met; and those that were served whole.
    ends: Counter[str] = field(default_factory=Counter)
    #: Seconds from when a request was due to its first 1,920 samples, and the longest that one was sent late.
    first_s: list[float] = field(default_factory=list)
    late_s: float = 0.0
    #: Requests whose playback, begun with the first sound, would have stood still.
    ran_dry: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def rate(self) -> float:
        """Seconds of sound a second."""
        return sum(self.sound_s.values()) / (self.until - self.since)


@dataclass(frozen=True)
class Figures:
    """One run. ``capacity`` and ``served`` in seconds of sound a second, memory in bytes at its times."""

    capacity: float
    requests_a_second: float
    heard: Heard
    memory: Sequence[tuple[float, int]]

    @property
    def served(self) -> float:
        """What part of the capacity was served under overload."""
        return self.heard.rate / self.capacity

    @property
    def errors(self) -> dict[str, int]:
        """Ends that are neither sound nor 429."""
        return {end: count for end, count in self.heard.ends.items() if end not in _EXPECTED}

    def share(self, key: str) -> float:
        """A key's part of what was served, over its fair part."""
        return self.heard.sound_s[key] / sum(self.heard.sound_s.values()) * len(KEYS)

    @property
    def growth_mib_a_minute(self) -> float:
        """Slope of the memory of the server and its engine."""
        times, sizes = zip(*self.memory, strict=True)
        return float(np.polyfit(np.array(times) / 60, np.array(sizes) / _MIB, 1)[0])


def run(plan: Plan) -> Report:
    """Measure a server of its own for ``plan.overload_s`` seconds; raises as :func:`.serve_suite.run`."""
    checkpoint = inspect(plan.checkpoint)
    slots = max(plan.batches)
    with keyed_server(plan, slots=slots, queue_size=8) as server:
        figures = measure(server.port, server.pid, request_body(checkpoint), plan.overload_s, plan.say)
    facts: dict[str, Any] = {
        "checkpoint": provenance.of_checkpoint(checkpoint),
        "device": plan.device,
        "slots": slots,
        "clients": CLIENTS,
        "seconds": plan.overload_s,
        "capacity_sound_s_a_second": figures.capacity,
        "requests_a_second": figures.requests_a_second,
        "ends": dict(figures.heard.ends),
        "sent_late_s": figures.heard.late_s,
        "memory_mib_a_minute": figures.growth_mib_a_minute,
    }
    return Report("overload", provenance.collect(), facts, [_table(figures)])


@contextmanager
def keyed_server(plan: Plan, *, slots: int, queue_size: int) -> Iterator[Server]:
    """A server of ``plan``'s checkpoint whose keys are :data:`KEYS`. Raises as :func:`.speaking_server`."""
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        write_keys(keys)
        plan.say("starting the server")
        with speaking_server(
            plan, "frames", slots=slots, queue_size=queue_size, api_keys_file=keys
        ) as server:
            yield server


def write_keys(file: Path) -> None:
    """A key file for the server; each key is its own name."""
    file.write_text(
        "".join(f"{name} sha256:{hashlib.sha256(name.encode()).hexdigest()}\n" for name in KEYS), "ascii"
    )


def measure(
    port: int, pid: int, body: Mapping[str, Any], seconds: float, say: Callable[[str], None]
) -> Figures:
    """Overload the server on ``port``, process ``pid``, for ``seconds``; its keys are :func:`write_keys`'."""
    content = json.dumps(dict(body)).encode()
    say("how much it serves at most")
    full = closed_loop(port, content, min(seconds * _CAPACITY_PART, _CAPACITY_MOST_S))
    if not full.ends["200"] or not full.rate:
        raise EngineError(f"the server serves nothing: {dict(full.ends)}")
    requests_a_second = _TIMES_CAPACITY * full.ends["200"] / (full.until - full.since)
    say(f"{full.rate:.1f} s of sound a second; now {requests_a_second:.2f} requests a second")
    memory: list[tuple[float, int]] = []
    heard = open_loop(port, content, seconds, requests_a_second, lambda: memory.append(_memory(pid)))
    return Figures(
        full.rate,
        requests_a_second,
        heard,
        [look for look in memory if heard.since <= look[0] <= heard.until],
    )


def _memory(pid: int) -> tuple[float, int]:
    return time.monotonic(), resident_of_family(pid)


def _phase(seconds: float) -> Heard:
    now = time.monotonic()
    return Heard(now + _SETTLES * seconds, now + seconds)


def closed_loop(port: int, content: bytes, seconds: float) -> Heard:
    """As many clients as are served at a time and some that wait, each with one request after the other.

    The server's keys are :func:`write_keys`'.
    """
    heard, names = _phase(seconds), list(KEYS)
    clients = _streams(port) + len(names)

    def speak_on(number: int) -> None:
        while (now := time.monotonic()) < heard.until:
            _ask(port, content, names[number % len(names)], now, heard)

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(speak_on, range(clients)))
    return heard


def open_loop(
    port: int,
    content: bytes,
    seconds: float,
    requests_a_second: float,
    look: Callable[[], None] = lambda: None,
) -> Heard:
    """Requests at random times, which do not wait for those before them; ``look`` is called now and then."""
    heard, draw = _phase(seconds), random.Random(1)  # noqa: S311 - arrivals
    due = itertools.accumulate(
        (draw.expovariate(requests_a_second) for _ in itertools.count()), initial=time.monotonic()
    )
    # In every twenty the parts are exact: by chance a key might ask for less than its share for minutes.
    deck = [name for name, part in KEYS.items() for _ in range(round(20 * part))]
    names = itertools.chain.from_iterable(draw.sample(deck, len(deck)) for _ in itertools.count())
    next_one = threading.Lock()

    def take_turns(_number: int) -> None:
        while True:
            with next_one:
                at, key = next(due), next(names)
            if at > heard.until:
                return
            time.sleep(max(0.0, at - time.monotonic()))
            _ask(port, content, key, at, heard)

    over = threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_S):
            look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(take_turns, range(CLIENTS)))
    over.set()
    watcher.join()
    return heard


def _ask(port: int, content: bytes, key: str, due: float, heard: Heard) -> None:
    """One request, due at a time of :func:`time.monotonic`, read to its end. What it meets is counted."""
    late_s = time.monotonic() - due
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
    first_s: float | None = None
    ran_dry = False
    try:
        connection.request("POST", "/v1/audio/speech", content, _headers(key))
        answer = connection.getresponse()
        end, received = str(answer.status), 0
        while part := answer.read1(1 << 14):
            now = time.monotonic()
            if first_s is not None and now - due - first_s > received / _BYTES_A_SECOND:
                ran_dry = True
            received += len(part)
            if first_s is None and received >= FIRST_SOUND_BYTES:
                first_s = now - due
            if answer.status == http.client.OK and heard.since <= now < heard.until:
                with heard.lock:
                    heard.sound_s[key] += len(part) / _BYTES_A_SECOND
    except (OSError, http.client.HTTPException) as error:
        end = type(error).__name__
    finally:
        connection.close()
    with heard.lock:
        heard.late_s = max(heard.late_s, late_s)
        if heard.since <= time.monotonic() < heard.until or end not in _EXPECTED:
            heard.ends[end] += 1
            heard.ran_dry += ran_dry
            if end == "200" and first_s is not None:
                heard.first_s.append(first_s)


def _headers(key: str) -> dict[str, str]:
    return {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}


def _streams(port: int) -> int:
    """How many requests the server speaks at a time."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
    try:
        connection.request("GET", "/ready")
        return int(json.load(connection.getresponse())["max_streams"])
    finally:
        connection.close()


def _table(figures: Figures) -> Table:
    first_s = figures.heard.first_s
    row: dict[str, Cell] = {
        "capacity": figures.capacity,
        "served": 100 * figures.served,
        "spoken": figures.heard.ends["200"],
        "refused": figures.heard.ends["429"],
        "errors": sum(figures.errors.values()),
        "dry": figures.heard.ran_dry,
        **{key: 100 * figures.share(key) for key in KEYS},
        **{f"p{share}": 1e3 * percentile(first_s, share / 100) for share in (50, 95, 99)},
        "growth": figures.growth_mib_a_minute,
    }
    return Table(
        name="overload",
        title=f"{CLIENTS} clients, requests at {_TIMES_CAPACITY:g} times the capacity of the same run",
        columns=[
            Column("capacity", "capacity", "s of sound/s"),
            Column("served", "of it served", "%", 1),
            Column("spoken", "spoken"),
            Column("refused", "429"),
            Column("errors", "other errors"),
            Column("dry", "playback stood still"),
            *(
                Column(key, f"{name} key ({100 * part:.0f} % of requests), of its share", "%", 1)
                for key, (name, part) in zip(KEYS, KEYS.items(), strict=True)
            ),
            *(Column(f"p{share}", f"first sound p{share}", "ms", 0) for share in (50, 95, 99)),
            Column("growth", "memory a minute", "MiB"),
        ],
        rows=[row],
        notes=["First sound: from when the request was due, its time in the queue included."],
    )
