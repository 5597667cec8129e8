"""What a download tells other processes: a small file that is replaced as a whole and read with distrust."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from ..errors import DownloadError

#: More than a writer of ours ever writes; a reader looks at no more of a file, in bytes.
MOST_BYTES = 16 << 10
#: Longest words of a writer, in characters.
MOST_CHARACTERS = 400

#: What a download does, in this order, or how it ended.
Step = Literal["resolving", "downloading", "verifying", "complete", "failed"]

_Words = Annotated[str, Field(max_length=MOST_CHARACTERS)]
_Count = Annotated[int, Field(ge=0, lt=1 << 53)]
_Number = Annotated[float, Field(ge=0, lt=1e15, allow_inf_nan=False)]


@dataclass(frozen=True)
class DownloadState:
    """One moment of a download. Sizes in bytes."""

    repo: _Words
    state: Step
    #: Unix time.
    started: _Number
    #: When it was written, by the host's monotonic clock: one for all processes, set by nobody, still in suspend.
    beat: _Number
    done: _Count = 0
    total: _Count = 0
    #: Bytes a second.
    rate: _Number = 0.0
    #: None where nobody can say.
    remaining_s: _Number | None = None
    #: What arrives at the moment.
    file: _Words = ""
    #: Why it failed.
    error: _Words = ""


_READ = TypeAdapter(DownloadState)


def write_whole(file: Path, value: Any) -> None:
    """Write JSON under a temporary name and rename it: ``file`` is whole or it is not there. Raises OSError."""
    temporary = file.with_name(f".{file.name}.new")
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=1)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)


def write_state(file: Path, state: DownloadState) -> None:
    """Replace the state in ``file``. Raises OSError."""
    write_whole(file, asdict(state))


def read_state(file: Path) -> DownloadState | None:
    """The state in ``file``; None where there is no such file.

    It is another process's file: whatever else stands there is a :class:`DownloadError`, never waited for and never
    read beyond :data:`MOST_BYTES`.
    """
    try:
        # Neither through a link nor into a pipe that nobody writes to.
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _unreadable(file, "it is no ordinary file")
            content = os.read(descriptor, MOST_BYTES + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(file, error.strerror or str(error)) from error
    if len(content) > MOST_BYTES:
        raise _unreadable(file, f"it has more than {MOST_BYTES} bytes")
    try:
        return _READ.validate_json(content, strict=True)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)[0]
        raise _unreadable(file, ": ".join([*map(str, wrong["loc"]), wrong["msg"]])) from error


def _unreadable(file: Path, why: str) -> DownloadError:
    return DownloadError(f"the download's state {file} cannot be read: {why}", param=str(file))
