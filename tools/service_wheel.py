#!/usr/bin/env python3
"""Build the service wheel, the same bytes from the same sources, and print its path and hashes as JSON.

The sources are copied to a folder of their own first, so that time stamps, permissions, caches and the
place of the checkout have no say; the built archive is then written again uncompressed with fixed times and
modes, because compressed bytes differ between zlib versions. A release on a host is named by this wheel's
sha256: without this, every build would be a new release.

Needs hatchling in the Python that runs it (``tools/locks/controller.txt`` has it).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("pyproject.toml", "LICENSE", "service")
# 2020-01-01: any fixed date after 1980, where zip begins.
FIXED_TIME = (2020, 1, 1, 0, 0, 0)
EPOCH = "1577836800"


class BuildError(RuntimeError):
    """The wheel could not be built; the message has the build tool's own words."""


def stage(root: Path, target: Path) -> None:
    """Copy what belongs into the wheel, and nothing that a run of the program leaves behind."""
    skipped = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "*.egg-info", "*~", "*.orig", "*.rej")
    for name in SOURCES:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=skipped, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(source, target / name)


def normalise(built: Path, wheel: Path) -> None:
    """Write the archive again: sorted, uncompressed, fixed times and modes."""
    with zipfile.ZipFile(built) as source, zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as target:
        # RECORD comes last, as the wheel format asks for.
        for name in sorted(source.namelist(), key=lambda name: (name.endswith(".dist-info/RECORD"), name)):
            entry = zipfile.ZipInfo(name, FIXED_TIME)
            entry.external_attr = 0o100644 << 16
            entry.create_system = 3
            target.writestr(entry, source.read(name))


def patch_set(wheel: Path) -> str:
    """The patcher's own digest of the on-disk patches that the wheel carries."""
    environment = {**os.environ, "PYTHONPATH": str(wheel)}
    # -S: an editable install of the same package in this environment must not answer instead.
    command = [sys.executable, "-S", "-m", "qwen3_tts_service.sitepatches", "digest"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BuildError(f"{wheel} is no service wheel with a patch set: {result.stderr.strip()}")
    return result.stdout.strip()


def build(root: Path, output: Path) -> dict[str, str]:
    """Build into ``output``; return ``path``, ``file``, ``sha256`` and ``patch_set``."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "LC_ALL": "C.UTF-8"}
    with tempfile.TemporaryDirectory(prefix="service-wheel-") as scratch:
        sources, built = Path(scratch) / "sources", Path(scratch) / "built"
        sources.mkdir()
        stage(root, sources)
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)]
        result = subprocess.run(
            command,
            cwd=sources,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            umask=0o022,
        )
        if result.returncode:
            raise BuildError(
                f"{result.stderr.strip()}\nThe build needs hatchling in {sys.executable}: run Ansible "
                "from the environment that `make venv` builds, or give a built wheel as "
                "tts_runtime_service_wheel"
            )
        (found,) = built.glob("*.whl")
        fresh = Path(scratch) / found.name
        normalise(found, fresh)
        digest = hashlib.sha256(fresh.read_bytes()).hexdigest()
        # One folder a build: two checkouts of different commits share the version and so the file's name.
        folder = output / digest[:16]
        folder.mkdir(parents=True, exist_ok=True)
        wheel = folder / found.name
        if not wheel.is_file() or hashlib.sha256(wheel.read_bytes()).hexdigest() != digest:
            shutil.copyfile(fresh, folder / f".{os.getpid()}")
            (folder / f".{os.getpid()}").rename(wheel)
    return describe(wheel)


def describe(wheel: Path) -> dict[str, str]:
    """What the role needs to know about a wheel, built here or given."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return {"path": str(wheel), "file": wheel.name, "sha256": digest, "patch_set": patch_set(wheel)}


def main() -> int:
    """Build, or describe a given wheel."""
    default = Path(os.environ.get("QWEN3_TTS_CACHE") or Path.home() / ".cache" / "qwen3-tts") / "service"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=default, help="folder for the wheel (default: the cache)"
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to build")
    parser.add_argument("--describe", type=Path, metavar="WHEEL", help="only describe this wheel")
    arguments = parser.parse_args()
    try:
        described = (
            describe(arguments.describe) if arguments.describe else build(arguments.root, arguments.output)
        )
    except (BuildError, OSError, zipfile.BadZipFile) as problem:
        print(f"service wheel: {problem}", file=sys.stderr)
        return 1
    print(json.dumps(described))
    return 0


if __name__ == "__main__":
    sys.exit(main())
