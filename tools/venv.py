#!/usr/bin/env python3
"""Build a virtual environment from hash locks, with the on-disk patches applied as on a host.

    tools/venv.py .venv --runtime cpu --lock develop --editable
    tools/venv.py .venv-ansible --lock controller

Nothing is resolved: the locks are the whole list. An environment whose inputs did not change is left alone;
one whose inputs did is built again from nothing, and so is one whose build was interrupted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pip_sources
from locks import ROOT
from wheels import fill_all, groups_of

STAMP = "built-from.json"


def inputs(groups: list[dict[str, Any]], patched: bool, editable: bool) -> dict[str, Any]:
    """What the environment is made of; written into it last, compared before the next build."""
    patches = hashlib.sha256()
    for path in sorted((ROOT / "service" / "qwen3_tts_service" / "sitepatches").rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            patches.update(f"{path.name}\0".encode() + path.read_bytes())
    return {
        "python": sys.version,
        "locks": {group["name"]: hashlib.sha256(group["lock"].encode()).hexdigest() for group in groups},
        "patches": patches.hexdigest() if patched else "",
        "editable": hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest() if editable else "",
    }


def create(directory: Path, groups: list[dict[str, Any]], cache: Path) -> Path:
    """A fresh environment with every locked wheel, from the cache alone; return its interpreter."""
    if directory.exists():
        shutil.rmtree(directory)
    subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
    python = directory / "bin" / "python"
    for group in groups:
        lock = directory / f"{group['name']}.lock.txt"
        lock.write_text(group["lock"], encoding="utf-8")
        pip_sources.pip(
            "install",
            "--quiet",
            "--no-index",
            f"--find-links={cache}",
            "--no-deps",
            "--require-hashes",
            "--only-binary=:all:",
            "--no-compile",
            f"--requirement={lock}",
            python=str(python),
        )
    return python


def patch(python: Path) -> None:
    """Apply the on-disk patches with the project's own patcher, from outside the environment."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "service")}
    command = [sys.executable, "-m", "qwen3_tts_service.sitepatches"]
    for verb in ("apply", "status"):
        subprocess.run([*command, verb, "--python", str(python.absolute())], check=True, env=environment)


def install_project(python: Path) -> None:
    """The checkout itself, editable: edits are seen without a new build."""
    pip_sources.pip(
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--editable",
        str(ROOT),
        python=str(python),
    )


def compile_all(directory: Path) -> None:
    """Byte code of everything, once: else each process of a test compiles torch's thousands of files again.

    After the patches, which change files. Packages ship templates that are no Python, so failures mean nothing.
    """
    subprocess.run(
        [directory / "bin" / "python", "-m", "compileall", "-q", "-j", "0", directory / "lib"],
        stdout=subprocess.DEVNULL,
        check=False,
    )


def main() -> int:
    """Build the environment when its inputs changed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--runtime", default="", help="a runtime of the service, for instance cpu")
    parser.add_argument("--lock", action="append", default=[], help="a further lock: develop, controller")
    parser.add_argument("--editable", action="store_true", help="install the checkout itself, editable")
    parser.add_argument("--cache", type=Path, default=pip_sources.cache_directory())
    arguments = parser.parse_args()
    began = time.monotonic()
    try:
        groups = groups_of(arguments.runtime, arguments.lock, f"3.{sys.version_info.minor}")
        wanted = inputs(groups, bool(arguments.runtime), arguments.editable)
        stamp = arguments.directory / STAMP
        if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == wanted:
            print(f"{arguments.directory}: up to date")
            return 0
        fill_all(groups, f"3.{sys.version_info.minor}", arguments.cache)
        python = create(arguments.directory, groups, arguments.cache)
        if arguments.runtime:
            patch(python)
        if arguments.editable:
            install_project(python)
        compile_all(arguments.directory)
    except (pip_sources.SourceError, subprocess.CalledProcessError, ValueError, OSError) as problem:
        print(f"{arguments.directory}: {problem}", file=sys.stderr)
        return 1
    stamp.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
    print(f"{arguments.directory}: built in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
