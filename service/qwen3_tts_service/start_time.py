"""How long the last start took, kept for whoever waits for the next one."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)


def usual_s() -> float | None:
    """Seconds from weights to ready, the last time; None where nothing was kept."""
    file = _file()
    if file is None:
        return None
    try:
        seconds = json.loads(file.read_text(encoding="utf-8"))["seconds"]
    except (OSError, ValueError, KeyError, TypeError):
        # The first start, or what somebody else wrote: only a bar without an end comes of it.
        return None
    return float(seconds) if isinstance(seconds, (int, float)) and 0 < seconds < 1e6 else None


def keep(seconds: float) -> None:
    """Keep it below the unit's state directory; nowhere without one."""
    if (file := _file()) is None:
        return
    try:
        file.write_text(json.dumps({"seconds": round(seconds, 1)}), encoding="utf-8")
    except OSError as error:
        logger.warning("the time of this start cannot be kept: %s", error)


def _file() -> Path | None:
    # systemd separates several directories by colons; the unit has one.
    state = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(state) / "start-time.json" if state else None
