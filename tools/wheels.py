#!/usr/bin/env python3
"""Fill the wheel cache with exactly the wheels that locks name.

``tools/wheels.py --runtime cpu --lock develop`` puts every wheel of the runtime and of the named locks, for
the running Python or ``--python``, into the cache (``$QWEN3_TTS_CACHE/wheels``, default
``~/.cache/qwen3-tts/wheels``). A second call compares hashes and downloads nothing. Each group of wheels is
fetched by its own pip call from its own one index; before that, folders named ``find-links`` in the
operator's pip configuration are searched for the very files that the lock names.

The cache is flat, so it serves as ``tts_runtime_wheelhouse`` on a host as it is (a bind mount, a copy, or
``python3 -m http.server``).
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pip_sources
from locks import RUNTIME_LOCKS, find, parse, plan, render, runtimes_index

# A cached wheel is kept for whichever glibc the later host has; the build side asks for all of them.
NEWEST_GLIBC = "2.36"


def groups_of(
    runtime: str, extra: list[str], python: str, locks: Path = RUNTIME_LOCKS
) -> list[dict[str, Any]]:
    """The groups (name, index, lock text) of a runtime and of further locks, for one Python version."""
    groups: list[dict[str, Any]] = []
    if runtime:
        planned = plan(str(locks), runtime, python, NEWEST_GLIBC, {})
        if planned["incomplete"]:
            raise pip_sources.SourceError(
                f"the lock of runtime {runtime} has no wheel for Python {python}: "
                f"{', '.join(planned['incomplete'])}. Use another Python (--python), or complete it: "
                f"ansible-playbook playbooks/lock.yml -e lock_runtime={runtime} -e lock_python={python}"
            )
        groups += planned["groups"]
    for name in extra:
        lock = find(name)
        pins = [
            pin for pin in parse(lock.path.read_text(encoding="utf-8"), lock.path.name) if pin.wanted(python)
        ]
        fitting = [type(pin)(pin.name, pin.version, pin.matching(python, NEWEST_GLIBC)) for pin in pins]
        groups.append({"name": name, "index": runtimes_index(name), "lock": render(fitting)})
    return groups


def sha256(path: Path) -> str:
    """The file's hash, or '' when there is no such file."""
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fill(group: dict[str, Any], python: str, cache: Path) -> int:
    """Put the group's missing wheels into the cache; return how many were missing."""
    missing = []
    for pin in parse(group["lock"], group["name"]):
        if not any(sha256(cache / file) == digest for file, digest in pin.wheels.items()):
            missing.append(pin)
    for pin in list(missing):
        for folder in pip_sources.local_folders():
            for file, digest in pin.wheels.items():
                if pin in missing and sha256(folder / file) == digest:
                    shutil.copyfile(folder / file, cache / f".{file}")
                    (cache / f".{file}").rename(cache / file)
                    missing.remove(pin)
                    print(f"  {file} from {folder}")
    if missing:
        _download(group, missing, python, cache)
    return len(missing)


def _download(group: dict[str, Any], missing: list[Any], python: str, cache: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        requirements = Path(scratch) / f"{group['name']}.txt"
        requirements.write_text(render(missing), encoding="utf-8")
        arrived = Path(scratch) / "arrived"
        try:
            pip_sources.pip(
                "download",
                "--quiet",
                "--require-hashes",
                f"--requirement={requirements}",
                f"--dest={arrived}",
                *pip_sources.target_arguments(python),
                *pip_sources.index_arguments(group["index"]),
            )
        except pip_sources.SourceError as problem:
            names = ", ".join(file for pin in missing for file in pin.wheels)
            raise pip_sources.SourceError(
                f"{problem}\nThe wheels of '{group['name']}' could not be fetched from the index "
                f"'{group['index']}'. Ways out: make that index reachable; or put the files into {cache} "
                f"yourself; or name a folder that holds them in pip's own find-links setting. "
                f"Missing: {names}"
            ) from None
        for wheel in arrived.iterdir():
            wheel.rename(cache / wheel.name)


def fill_all(groups: list[dict[str, Any]], python: str, cache: Path) -> None:
    """Fill the cache with every group, and say what it took; another process that fills it is waited for."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for group in groups:
            began = time.monotonic()
            fetched = fill(group, python, cache)
            print(f"wheels: {group['name']}: {fetched} fetched, {time.monotonic() - began:.1f} s", flush=True)


def main() -> int:
    """Fill the cache."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runtime", default="", help="rocm6.4, rocm6.4-gfx1151, rocm7, cuda or cpu")
    parser.add_argument(
        "--lock", action="append", default=[], help="a further lock: develop, controller, ..."
    )
    parser.add_argument("--locks", type=Path, default=RUNTIME_LOCKS, help="another set of runtime locks")
    parser.add_argument(
        "--python", default=f"3.{sys.version_info.minor}", help="Python version of the wheels"
    )
    parser.add_argument("--cache", type=Path, default=pip_sources.cache_directory())
    arguments = parser.parse_args()
    try:
        groups = groups_of(arguments.runtime, arguments.lock, arguments.python, arguments.locks)
        fill_all(groups, arguments.python, arguments.cache)
    except (pip_sources.SourceError, ValueError) as problem:
        print(f"wheels: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
