"""Resident memory of this process and of all that it has started, wherever the engine runs."""

from __future__ import annotations

import os
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_of_family(pid: int | None = None) -> int:
    """Bytes in memory of a process, by default this one, of its children and theirs.

    Pages that they share count for each of them. A process that ends meanwhile counts nothing.
    """
    pid = os.getpid() if pid is None else pid
    return _resident(pid) + sum(resident_of_family(child) for child in _children(pid))


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _children(pid: int) -> list[int]:
    """Those that any thread of it has started: the kernel lists them by thread."""
    found: list[int] = []
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text(encoding="ascii").split())
    except OSError:
        pass
    return found
