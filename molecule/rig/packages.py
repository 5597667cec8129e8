"""Debian packages that the rig needs on the build machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from . import paths
from .errors import RigError

#: Test hosts are made at the same time, and apt-get ends at once where another one runs.
LOCK = Path("/run/lock/qwen3-tts-rig-packages.lock")


def missing(commands: dict[str, str]) -> list[str]:
    """The packages whose commands are not on PATH; ``commands`` is command -> the package that has it."""
    return sorted({package for command, package in commands.items() if shutil.which(command) is None})


def install(commands: dict[str, str]) -> None:
    """Install what is missing, and touch nothing when nothing is.

    Raises:
        RigError: not root, not a Debian family machine, or apt failed.
    """
    if not (packages := missing(commands)):
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise RigError(
            f"please install {', '.join(packages)}: the rig does it itself only as root with apt-get"
        )
    with paths.locked(LOCK):
        # Whoever had the lock may have installed some of them.
        if packages := missing(commands):
            _apt_get(packages)


def _apt_get(packages: list[str]) -> None:
    print(f"installing {', '.join(packages)}", file=sys.stderr, flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages],
    ):
        attempt = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if attempt.returncode:
            raise RigError(f"{' '.join(command)} failed:\n{attempt.stdout[-1000:]}{attempt.stderr[-1000:]}")
