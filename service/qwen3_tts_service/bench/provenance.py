"""Where a figure comes from: the source it ran on, the host, the versions, the day.

A figure belongs to one state of ``engine/`` and ``codec/``; the hash of their sources says to which.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..checkpoints.load import Checkpoint

PACKAGE = Path(__file__).parents[1]
#: The parts of the package whose change makes a figure stale.
MEASURED_PARTS = ("engine", "codec")
_SOURCES = frozenset({".py", ".cpp"})
_DISTRIBUTIONS = ("transformers", "qwen-tts", "triton", "numpy", "accelerate")
_HASH_CHARACTERS = 16
#: When this module is imported, at the start: later the measurement is a load itself.
_LOAD_BEFORE = os.getloadavg()[0]


def source_hash(package: Path = PACKAGE) -> str:
    """16 hexadecimal characters over the names and contents of the measured parts' source files."""
    digest = hashlib.sha256()
    for part in MEASURED_PARTS:
        for file in sorted(file for file in (package / part).rglob("*") if file.suffix in _SOURCES):
            digest.update(file.relative_to(package).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:_HASH_CHARACTERS]


def collect() -> dict[str, Any]:
    """Source hash, date (UTC), host and versions, as JSON can hold them."""
    return {
        "source_hash": source_hash(),
        "date": datetime.now(UTC).date().isoformat(),
        "host": {
            "cpu": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "gpu": _gpus(),
            "load_1min": round(_LOAD_BEFORE, 2),
        },
        "versions": {"python": platform.python_version(), "kernel": platform.release(), **_versions()},
    }


def of_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a suite's facts say of the checkpoint that it measured: ``type``, ``size`` and ``synthetic``."""
    return {
        "type": checkpoint.model_type,
        "size": checkpoint.model_size,
        "synthetic": checkpoint.synthetic,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _gpus() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _versions() -> dict[str, str]:
    import torch

    # Its own word names the build (+cpu, +rocm6.4), which the distribution's version need not.
    found: dict[str, str] = {"torch": torch.__version__}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    for name, version in (("cuda", torch.version.cuda), ("hip", torch.version.hip)):
        if version:
            found[name] = version
    return found
