"""Where the rig keeps things on the build machine."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def cache() -> Path:
    """The project's cache, shared by all checkouts: ``QWEN3_TTS_CACHE`` or ``~/.cache/qwen3-tts``."""
    return Path(os.environ.get("QWEN3_TTS_CACHE") or "~/.cache/qwen3-tts").expanduser().absolute()


def wheels() -> Path:
    """The wheel cache; hosts see it read-only as ``/srv/wheelhouse``."""
    return cache() / "wheels"


def images() -> Path:
    """Base images, one directory per recipe."""
    return cache() / "rig" / "images"


def hosts() -> Path:
    """One directory per host that exists."""
    return cache() / "rig" / "hosts"


def checkout_name(name: str) -> str:
    """``name`` made unique for this checkout, so that two checkouts can test side by side."""
    return f"{name}-{hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:6]}"


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Only one process at a time inside the block, of all that name this lock file; a second one waits."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
