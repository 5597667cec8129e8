"""How far a download is, told while it runs: lines for a person, and a state for other processes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from ..errors import DownloadError, TTSError
from .download_state import MOST_CHARACTERS, DownloadState, write_state

MIB = 1 << 20
#: What is less than the rate's last digit says nothing about the time that is left.
_LEAST_RATE = 0.05 * MIB
#: A rate over less jumps, over more it lags (seconds).
_RATE_OVER_S = 10.0
#: How often the disk is looked at and the state is written (seconds).
_LOOK_S = 1.0

Report = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """Files that shall arrive in ``blobs``: their names there -> their names in the repository, and sizes in bytes."""

    blobs: Path
    files: Mapping[str, tuple[str, int]]

    @property
    def total(self) -> int:
        return sum(size for _, size in self.files.values())

    def present(self) -> tuple[int, str]:
        """Bytes on the disk, of complete files and others; and which of those others is the newest.

        Measured there, so that a resumed download starts where it is and not at zero.
        """
        done, newest, latest = 0, 0.0, ""
        for blob, (name, _) in self.files.items():
            for file in (self.blobs / blob, self.blobs / f"{blob}.incomplete"):
                try:
                    found = file.stat()
                except OSError:
                    continue
                done += found.st_size
                if file.suffix and found.st_mtime > newest:
                    newest, latest = found.st_mtime, name
                break
        return done, latest


class Telling:
    """Tells of one download from the beginning of the block to its end, however it ends.

    ``report`` is told what happens, ``progress`` every ``every_s`` seconds how far it is. ``file`` gets the state
    once a second. Raises DownloadError where that cannot be written at the beginning; later it is only reported.
    """

    def __init__(
        self,
        repo: str,
        *,
        report: Report = print,
        progress: Report = print,
        every_s: float = 5.0,
        file: Path | None = None,
    ) -> None:
        self.report = report
        self._progress, self._every_s, self._file = progress, every_s, file
        now = time.monotonic()
        self._state = DownloadState(
            repo[:MOST_CHARACTERS], state="resolving", started=round(time.time(), 3), beat=now
        )
        self._wanted: Wanted | None = None
        self._seen: deque[tuple[float, int]] = deque()
        self._writable = True
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="download-progress", daemon=True)

    def __enter__(self) -> Telling:
        if self._file is not None:
            try:
                write_state(self._file, self._state)
            except OSError as error:
                raise DownloadError(
                    f"the state of the download cannot be written to {self._file}: {error.strerror}",
                    param=str(self._file),
                ) from error
        self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._watcher.join()
        if error is None:
            self._tell(replace(self._measured(), state="complete", remaining_s=0.0, file=""))
        else:
            words = error.message if isinstance(error, TTSError) else f"{type(error).__name__}: {error}"
            self._tell(
                replace(
                    self._measured(),
                    state="failed",
                    remaining_s=None,
                    error=" ".join(words.split())[:MOST_CHARACTERS],
                )
            )

    def fetching(self, wanted: Wanted) -> None:
        """The files are known, and arrive from now on."""
        self._wanted = wanted
        self._state = replace(self._state, state="downloading", total=wanted.total)

    def verifying(self) -> None:
        """Everything has arrived and is compared with the hub's hashes."""
        self._state = replace(self._state, state="verifying")

    def _watch(self) -> None:
        next_line = time.monotonic() + self._every_s
        while not self._over.wait(min(_LOOK_S, self._every_s)):
            state = self._measured()
            self._tell(state)
            if state.state == "downloading" and time.monotonic() >= next_line:
                next_line += self._every_s
                self._progress(progress_line(state.done, state.total, state.rate))

    def _measured(self) -> DownloadState:
        """The state of now."""
        now, state, wanted = time.monotonic(), self._state, self._wanted
        if wanted is None:
            return replace(state, beat=now)
        done, file = wanted.present()
        self._seen.append((now, done))
        while now - self._seen[0][0] > _RATE_OVER_S:
            self._seen.popleft()
        (since, then), passed = self._seen[0], now - self._seen[0][0]
        # Less than before: a damaged file is fetched again.
        rate = max(done - then, 0) / passed if since < now else 0.0
        return replace(
            state,
            beat=now,
            done=done,
            rate=rate,
            remaining_s=remaining_s(done, state.total, rate),
            file=file[:MOST_CHARACTERS],
        )

    def _tell(self, state: DownloadState) -> None:
        if self._file is None:
            return
        try:
            write_state(self._file, state)
        except OSError as error:
            # The bytes matter more than who watches them.
            if self._writable:
                self.report(f"the state of the download cannot be written: {error}")
            self._writable = False


def remaining_s(done: int, total: int, rate: float) -> float | None:
    """Seconds until ``total`` bytes are there; None where the rate, in bytes a second, says nothing."""
    return None if rate < _LEAST_RATE else max(total - done, 0) / rate


def progress_line(present: int, total: int, rate: float) -> str:
    """One line for the journal. ``present`` and ``total`` in bytes, ``rate`` in bytes a second."""
    share = 100 * present / total if total else 100.0
    line = f"{share:5.1f} %  {present / MIB:.0f} of {total / MIB:.0f} MiB, {max(rate, 0) / MIB:.1f} MiB/s"
    left = remaining_s(present, total, rate)
    if left is None:
        return f"{line}, stalled" if present < total else line
    minutes, seconds = divmod(round(left), 60)
    return f"{line}, {minutes} min {seconds:02d} s left"
