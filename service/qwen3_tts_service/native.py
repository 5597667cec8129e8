"""C++ that is compiled on the host it runs on, for that host's own processor, and kept.

It needs a C++ compiler and nothing else: no Python headers, no torch headers. What is built is loaded with ctypes,
which lets go of the interpreter's lock while a function runs.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

_FLAGS = (
    "-O3",
    "-march=native",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-fopenmp",
)
_BUILD_LIMIT_S = 120


def default_directory() -> Path:
    """Where built kernels are kept: systemd's cache directory, else the user's."""
    cache = os.environ.get("CACHE_DIRECTORY", "").split(":")[0]
    return (Path(cache) if cache else Path("~/.cache/qwen3-tts").expanduser()) / "compile"


class NotCompiled(Exception):
    """There is no compiled way on this host; the message says why."""


def load_library(source: Path, directory: Path) -> ctypes.CDLL:
    """``source`` as a library, built now unless ``directory`` has it from an earlier start.

    Raises NotCompiled where there is no compiler, or where it fails.
    """
    name = os.environ.get("CXX") or "g++"
    compiler = shutil.which(name)
    if compiler is None:
        raise NotCompiled(f"no C++ compiler: {name} is not on PATH")
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=20).stdout
        built = directory / f"{source.parent.name}-{source.stem}-{_fingerprint(source, version)}.so"
        if not built.is_file():
            _build(compiler, source, built)
        return ctypes.CDLL(str(built))
    except subprocess.CalledProcessError as error:
        raise NotCompiled(f"{compiler} failed: {error.stderr.decode(errors='replace')[-300:]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotCompiled(f"the kernels could not be built or loaded: {error}") from error


def _fingerprint(source: Path, compiler: bytes) -> str:
    """Of everything that the library depends on: a cache moved to another processor must not be used there."""
    try:
        information = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        processor = next(line for line in information.splitlines() if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        processor = platform.processor()
    parts = (
        source.read_bytes(),
        compiler,
        " ".join(_FLAGS).encode(),
        platform.machine().encode(),
        processor.encode(),
    )
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _build(compiler: str, source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Built aside and renamed: two processes that start together must not load half a library.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        fresh = Path(folder) / target.name
        command = [compiler, *_FLAGS, str(source), "-o", str(fresh)]
        subprocess.run(command, capture_output=True, check=True, timeout=_BUILD_LIMIT_S)
        fresh.replace(target)
