"""Steps that a person reads while they happen: a number, a sentence, its time."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

WIDTH = 62
INTERACTIVE = sys.stdout.isatty()


class DemoError(Exception):
    """The demo cannot go on; the message says why and where the details are."""


class Steps:
    """Numbers the steps and keeps the total."""

    def __init__(self, title: str) -> None:
        self.started = time.monotonic()
        self.number = 0
        print(f"\n{title}\n", flush=True)

    @contextlib.contextmanager
    def step(self, sentence: str) -> Iterator[None]:
        """Print the step, and its time when it is over."""
        self.number += 1
        started = time.monotonic()
        line = f"{self.number:2}. {sentence} "
        if INTERACTIVE:
            print(line, end="", flush=True)
        try:
            yield
        except BaseException:
            print(f"{'' if INTERACTIVE else line}{dots(line)} failed after {since(started)}", flush=True)
            raise
        print(f"{'' if INTERACTIVE else line}{dots(line)} {since(started)}", flush=True)

    def finished(self) -> None:
        print(f"\nall of it took {since(self.started).strip()}", flush=True)


def dots(line: str) -> str:
    return "." * max(3, WIDTH - len(line))


def since(started: float) -> str:
    return f"{time.monotonic() - started:6.1f} s"


def note(text: str) -> None:
    """One line of detail under a step."""
    print(f"      {text}", flush=True)
