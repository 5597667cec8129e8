#!/usr/bin/env python3
"""Run the test suites, two at a time but for those in :data:`ALONE`, and print how long each took.

``tools/suites.py`` runs everything, ``tools/suites.py lint unit`` runs those two. A suite that fails does
not stop the others; the exit status is 1 when any failed. The output of one of the two is shown as it comes,
the other's when that suite has ended. All of it is kept in ``build/suites/SUITE.log``, and what a failed suite
printed last is printed again at the end. Standard library only.
"""

from __future__ import annotations

import itertools
import os
import re
import select
import shlex
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "suites"
PYTHON = ".venv/bin/python"
ANSIBLE = ".venv-ansible/bin"
UNIT = f"{PYTHON} -m pytest -q --durations=5 --ignore=tests/sitepatches --ignore=tests/demo"

#: Suite -> its commands, in order. Each is run from the repository's root. Suites are begun in this order: beside the
#: unit tests the hosts, which wait most of the time; what compiles on both cores (``slow``) has the least beside it;
#: short ones last, so that the last two end nearly together.
SUITES: dict[str, tuple[str, ...]] = {
    "measuring": (f"{UNIT} -m measuring",),
    "unit": (f"{UNIT} -m 'not slow and not measuring'",),
    "default": (f"{ANSIBLE}/molecule test -s default",),
    "kernel": (f"{ANSIBLE}/molecule test -s kernel",),
    "debian13": (f"{ANSIBLE}/molecule test -s debian13",),
    "slow": (f"{UNIT} -m 'slow and not measuring'",),
    "demo": (f"{PYTHON} -m pytest -q -s tests/demo",),
    "patches": (f"{PYTHON} -m pytest -q --durations=5 tests/sitepatches",),
    "lint": (
        f"{PYTHON} -m ruff check .",
        f"{PYTHON} -m ruff format --check .",
        f"{PYTHON} -m mypy",
        f"{ANSIBLE}/ansible-lint --offline --profile production",
        f"{PYTHON} tools/variables.py --check",
    ),
}

#: What they measure would be another's work, too. All others have a core's worth of work each, or wait for a host.
ALONE = ("measuring",)

#: A suite, whether it passed, and the seconds that it took.
Result = tuple[str, bool, float]

#: Lines of a failed suite that are printed again: what a log's reader sees who reads its end.
AGAIN = 60
#: How many of them are the log's last; the others are the end of the task that failed, where molecule's own
#: clean-up came after it.
LAST = 8
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def environment() -> dict[str, str]:
    """The caller's environment with the controller's tools on PATH, as molecule and ansible-lint expect."""
    # molecule names inventory and state after the checkout's last folder: in a home shared with another checkout of
    # that name, one would take the other's host for its own.
    home = ROOT / "build" / "ansible"
    home.mkdir(parents=True, exist_ok=True)
    return {
        **os.environ,
        "PATH": f"{ROOT / ANSIBLE}{os.pathsep}{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
        "ANSIBLE_HOME": str(home),
    }


def pieces(process: subprocess.Popen[bytes], output: int) -> Iterator[bytes]:
    """What ``process`` writes, until it has ended; a process that it left behind may keep the pipe open."""
    while True:
        ended = process.poll() is not None
        if select.select([output], [], [], 0 if ended else 0.5)[0]:
            if not (piece := os.read(output, 1 << 16)):
                return
            yield piece
        elif ended:
            return


def run(name: str, log: BinaryIO, terminal: BinaryIO | None) -> bool:
    """Run one suite, its output to ``log`` and ``terminal``; true when every command of it succeeded."""
    for command in SUITES[name]:
        _write(f"\n=== {name}: {command}\n".encode(), log, terminal)
        with subprocess.Popen(
            shlex.split(command),
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdout is not None
            for piece in pieces(process, process.stdout.fileno()):
                _write(piece, log, terminal)
        if process.returncode:
            return False
    return True


def _write(piece: bytes, *files: BinaryIO | None) -> None:
    for file in files:
        if file is not None:
            file.write(piece)
            file.flush()


def reason(text: str) -> list[str]:
    """The lines of a failed suite's output that say why: its end, or the end of the Ansible task that failed."""
    lines = COLOUR.sub("", text).splitlines()
    failed = [number for number, line in enumerate(lines) if re.match(r"\W*fatal: \[", line)]
    if not failed:
        return lines[-AGAIN:]
    start = failed[-1]
    end = next((n for n in range(start, len(lines)) if "PLAY RECAP" in lines[n]), len(lines))
    task = lines[max(start, end - (AGAIN - LAST)) : end]
    return [*task, "[...]", *lines[max(end, len(lines) - LAST) :]]


def timed(name: str, terminal: BinaryIO | None) -> Result:
    """Run one suite; what is shown on no terminal is in its log."""
    started = time.monotonic()
    with (LOGS / f"{name}.log").open("wb") as log:
        passed = run(name, log, terminal)
    return name, passed, time.monotonic() - started


def tell(result: Result) -> Result:
    """How a suite went."""
    name, passed, seconds = result
    print(f"=== {name}: {'passed' if passed else 'FAILED'} in {seconds:.0f} s", flush=True)
    return result


def tell_whole(result: Result) -> Result:
    """What a suite printed that was not shown as it came, and how it went."""
    _write((LOGS / f"{result[0]}.log").read_bytes(), sys.stdout.buffer)
    return tell(result)


def two_at_a_time(names: list[str]) -> list[Result]:
    """Run these suites; whoever has ended one takes the next, so that no two need to be equally long."""
    # An iterator gives each name to one of the two threads.
    waiting, ended, results = iter(names), deque[Result](), list[Result]()
    first = list(itertools.islice(waiting, 1))

    def beside() -> None:
        for name in waiting:
            ended.append(timed(name, None))

    with ThreadPoolExecutor(1) as second:
        other = second.submit(beside)
        try:
            for name in itertools.chain(first, waiting):
                results.append(tell(timed(name, sys.stdout.buffer)))
                while ended:
                    results.append(tell_whole(ended.popleft()))
        finally:
            # After an interrupt nobody may begin another.
            deque(waiting, maxlen=0)
        other.result()
    return [*results, *map(tell_whole, ended)]


def main(names: list[str]) -> int:
    """Run the named suites, or all of them."""
    unknown = [name for name in names if name not in SUITES]
    if unknown:
        print(f"no suite named {', '.join(unknown)}; there are {', '.join(SUITES)}", file=sys.stderr)
        return 2
    LOGS.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    wanted = [name for name in SUITES if not names or name in names]
    results = [tell(timed(name, sys.stdout.buffer)) for name in wanted if name in ALONE]
    results += two_at_a_time([name for name in wanted if name not in ALONE])
    failed = [name for name, passed, _ in results if not passed]
    for name in failed:
        print(f"\n=== {name} failed; from the end of {LOGS / name}.log:")
        print("\n".join(reason((LOGS / f"{name}.log").read_text(encoding="utf-8", errors="replace"))))
    print("\nsuite        result   seconds")
    for name, passed, seconds in results:
        print(f"{name:<12} {'passed' if passed else 'FAILED':<8} {seconds:7.0f}")
    print(f"total {time.monotonic() - started:.0f} s")
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
