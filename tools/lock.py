#!/usr/bin/env python3
"""Write a hash lock from its input file.

``tools/lock.py index GROUP...`` asks the group's index which wheel each Python version would get, and writes
the sha256 that the index states. ``tools/lock.py files GROUP WHEEL...`` adds hashes computed from wheel files
that lie here; requirements without a file stay in the lock without a hash, that is, incomplete.

Inputs (``<group>.in``) hold exact pins, one per line, so that writing a lock again changes hashes only when
the input changed. A line may end in ``; python_version >= "3.13"``.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pip_sources
from locks import PYTHONS, Lock, Pin, canonical, find, render, runtimes_index


def pins_of(source: Path) -> tuple[str, list[Pin]]:
    """The header and the pins of an input file."""
    header, pins = [], []
    for line in source.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            header.append(line.removeprefix("#").removeprefix(" ").rstrip())
        elif line.strip():
            requirement, _, marker = (part.strip() for part in line.partition(";"))
            name, _, version = requirement.partition("==")
            pins.append(Pin(name, version, {}, marker))
    return "\n".join(header), pins


def hash_of(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def from_index(lock: Lock) -> None:
    """Write the lock with the hashes that its index states."""
    header, pins = pins_of(lock.input)
    wheels: dict[str, dict[str, str]] = {canonical(pin.name): {} for pin in pins}
    with tempfile.TemporaryDirectory() as scratch:
        for python in PYTHONS:
            requirements = Path(scratch) / "requirements.txt"
            wanted = [pin for pin in pins if pin.wanted(python)]
            requirements.write_text(
                "".join(f"{pin.name}=={pin.version}\n" for pin in wanted), encoding="utf-8"
            )
            for item in pip_sources.report(requirements, python, runtimes_index(lock.group)):
                info = item["download_info"]
                file = unquote(Path(urlsplit(info["url"]).path).name)
                wheels[canonical(item["metadata"]["name"])][file] = info["archive_info"]["hashes"]["sha256"]
    complete = [Pin(pin.name, pin.version, wheels[canonical(pin.name)], pin.marker) for pin in pins]
    lock.path.write_text(render(complete, header), encoding="utf-8")


def from_files(lock: Lock, files: list[Path]) -> None:
    """Write the lock with hashes of wheel files; what has no file stays without a hash."""
    header, pins = pins_of(lock.input)
    complete = []
    for pin in pins:
        prefix = (canonical(pin.name), pin.version)
        mine = [
            file for file in files if (canonical(file.name.split("-")[0]), file.name.split("-")[1]) == prefix
        ]
        complete.append(Pin(pin.name, pin.version, {file.name: hash_of(file) for file in mine}, pin.marker))
    lock.path.write_text(render(complete, header), encoding="utf-8")


def main() -> int:
    """Run one of the two ways."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ways = parser.add_subparsers(dest="way", required=True)
    index = ways.add_parser("index")
    index.add_argument("group", nargs="+")
    files = ways.add_parser("files")
    files.add_argument("group")
    files.add_argument("wheel", nargs="*", type=Path)
    arguments = parser.parse_args()
    try:
        if arguments.way == "index":
            for group in arguments.group:
                from_index(find(group))
                print(f"{find(group).path}: written")
        else:
            from_files(find(arguments.group), arguments.wheel)
            print(f"{find(arguments.group).path}: written")
    except (pip_sources.SourceError, ValueError) as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
