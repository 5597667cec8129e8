"""When the device is lost: remembering it across restarts.

A process that lost its device can only end and be started again. ``record_fault`` writes the cause down before
that; whoever starts the process asks ``recent_faults`` and does not start it a third time in ten minutes, but
says the cause: a GPU that is lost twice in a row will be lost again, and an operator has to look.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

#: Faults further apart than this (seconds) are accidents of their own.
WITHIN_S = 600.0


@dataclass(frozen=True)
class Fault:
    """One loss of the device: ``at`` in seconds since 1970 (UTC), ``cause`` in one line."""

    at: float
    cause: str


def record_fault(path: Path, cause: str) -> list[Fault]:
    """Add ``cause`` to the record at ``path`` and return the faults of the last ten minutes, this one last.

    Older ones are dropped from the file. A record that cannot be written is logged and raises nothing: the
    caller is on its way out and must arrive there.
    """
    faults = [*recent_faults(path), Fault(time.time(), " ".join(cause.split()))]
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            json.dump([asdict(fault) for fault in faults], file)
            file.flush()
            # The kernel may go down together with the device.
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        logger.error("the device fault could not be recorded in %s: %s", path, error)
    return faults


def recent_faults(path: Path, *, within_s: float = WITHIN_S) -> list[Fault]:
    """The faults of the last ``within_s`` seconds, oldest first; none where there is no record.

    A record that cannot be read counts as none and is logged: it must not keep a service from starting.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        faults = [Fault(float(entry["at"]), str(entry["cause"])) for entry in entries]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning("the record of device faults in %s is not readable: %s", path, error)
        return []
    now = time.time()
    # Clocks are set back too: a fault from the future is as near as one from the past.
    return [fault for fault in faults if abs(now - fault.at) <= within_s]
