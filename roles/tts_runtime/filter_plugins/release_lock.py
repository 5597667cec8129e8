"""Read the hash locks, match wheels to an interpreter, and name a release by what it is made of.

Jinja filters of the role ``tts_runtime``; the build side (``tools/``) uses the same functions, so a lock
means the same on a developer's machine and on a host. Standard library only: this runs on the controller
before anything is installed anywhere.

A lock file is a pip requirements file. Above each pinned requirement one comment per wheel names the file,
in the order of the hashes below it::

    # wheel: click-8.5.1-py3-none-any.whl
    click==8.5.1 \\
        --hash=sha256:...

A requirement without a hash for an interpreter is incomplete for it; ``playbooks/lock.yml`` completes it on
the operator's side and the result is merged in from the inventory (``tts_runtime_lock_completions``).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REQUIREMENT = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)(?:\s*;\s*(?P<marker>[^\\]+?))?\s*\\?$"
)
MARKER = re.compile(r'^python_version (?P<operator>>=|<) "3\.(?P<minor>\d+)"$')
HASH = re.compile(r"^\s+--hash=sha256:(?P<digest>[0-9a-f]{64})\s*\\?$")
WHEEL_COMMENT = re.compile(r"^# wheel: (?P<file>\S+\.whl)$")
# Before PEP 600 the glibc version was hidden behind a year or a number.
LEGACY_PLATFORMS = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}


class LockError(ValueError):
    """A lock file is malformed, or does not fit the interpreter; the message names the way out."""


@dataclass(frozen=True)
class Pin:
    """One pinned requirement. ``wheels`` maps each locked wheel's file name to its sha256."""

    name: str
    version: str
    wheels: dict[str, str]
    marker: str = ""

    def wanted(self, python: str) -> bool:
        """True when the requirement applies to this interpreter (``python`` like ``3.12``)."""
        if not self.marker:
            return True
        match = MARKER.match(self.marker)
        if match is None:
            raise LockError(f"{self.name}: the marker '{self.marker}' is none that a lock may carry")
        minor, bound = int(python.split(".")[1]), int(match["minor"])
        return minor >= bound if match["operator"] == ">=" else minor < bound

    def matching(self, python: str, glibc: str) -> dict[str, str]:
        """The locked wheels which this interpreter can install."""
        return {file: digest for file, digest in self.wheels.items() if fits(file, python, glibc)}


def canonical(name: str) -> str:
    """A distribution name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _minor(tag: str) -> int | None:
    match = re.fullmatch(r"cp3(\d+)", tag)
    return int(match[1]) if match else None


def _platform_fits(tag: str, glibc: tuple[int, int]) -> bool:
    if tag in ("any", "linux_x86_64"):
        return True
    modern = re.fullmatch(r"manylinux_(\d+)_(\d+)_x86_64", tag)
    if modern:
        return (int(modern[1]), int(modern[2])) <= glibc
    legacy = LEGACY_PLATFORMS.get(tag.removesuffix("_x86_64")) if tag.endswith("_x86_64") else None
    return legacy is not None and legacy <= glibc


def fits(wheel: str, python: str, glibc: str = "2.28") -> bool:
    """True when CPython of this version on x86_64 Linux with this glibc accepts the wheel's tag (PEP 425)."""
    parts = wheel.removesuffix(".whl").split("-")
    if len(parts) not in (5, 6):
        raise LockError(f"{wheel} is not the name of a wheel")
    interpreters, abis, platforms = (part.split(".") for part in parts[-3:])
    minor = int(python.split(".")[1])
    major_glibc, minor_glibc = (int(number) for number in glibc.split(".")[:2])
    if not any(_platform_fits(tag, (major_glibc, minor_glibc)) for tag in platforms):
        return False
    if f"cp3{minor}" in abis:
        return f"cp3{minor}" in interpreters
    if "abi3" in abis:
        return any(found is not None and found <= minor for found in map(_minor, interpreters))
    return "none" in abis and any(tag in ("py3", f"py3{minor}", f"cp3{minor}") for tag in interpreters)


def parse(text: str, source: str = "lock") -> list[Pin]:
    """Read one lock file; refuse anything that is not a pinned requirement with hashes."""
    pins: list[Pin] = []
    files: list[str] = []
    head: re.Match[str] | None = None
    digests: list[str] = []

    def finish() -> None:
        nonlocal head, files, digests
        if head is None:
            return
        if len(files) != len(digests):
            raise LockError(
                f"{source}: {head['name']} has {len(files)} wheel names and {len(digests)} hashes"
            )
        wheels = dict(zip(files, digests, strict=True))
        pins.append(Pin(head["name"], head["version"], wheels, (head["marker"] or "").strip()))
        head, files, digests = None, [], []

    for number, line in enumerate(text.splitlines(), 1):
        if wheel := WHEEL_COMMENT.match(line):
            finish()
            files.append(wheel["file"])
        elif not line.strip() or line.startswith("#"):
            finish()
        elif digest := HASH.match(line):
            digests.append(digest["digest"])
        elif requirement := REQUIREMENT.match(line):
            finish()
            head = requirement
        else:
            # An index option in a lock would let the file choose where wheels come from.
            raise LockError(f"{source}:{number}: '{line}' is neither a pinned requirement nor a hash")
    finish()
    return pins


def render(pins: list[Pin], header: str = "") -> str:
    """Write pins as a lock file."""
    blocks = []
    for pin in sorted(pins, key=lambda one: canonical(one.name)):
        wheels = sorted(pin.wheels.items())
        lines = [f"# wheel: {file}" for file, _ in wheels]
        marker = f" ; {pin.marker}" if pin.marker else ""
        lines.append(
            " \\\n".join(
                [f"{pin.name}=={pin.version}{marker}", *(f"    --hash=sha256:{d}" for _, d in wheels)]
            )
        )
        blocks.append("\n".join(lines))
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    return comment + ("\n" if comment else "") + "\n".join(blocks) + "\n"


def runtimes(directory: str | Path) -> dict[str, Any]:
    """The lock set's description: which runtime is made of which groups, and from which index each comes."""
    path = Path(directory) / "runtimes.json"
    try:
        described: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LockError(
            f"{path} does not exist; tts_runtime_lock_directory must name a set of locks"
        ) from None
    return described


def with_completions(pins: list[Pin], completed: dict[str, str]) -> list[Pin]:
    """Add the wheels that the operator's side hashed; a wheel of another version is not taken."""
    result = []
    for pin in pins:
        wheels = dict(pin.wheels)
        for file, digest in completed.items():
            name, version = file.split("-")[:2]
            if canonical(name) == canonical(pin.name) and version == pin.version:
                if wheels.get(file, digest) != digest:
                    raise LockError(
                        f"{file}: the lock says sha256 {wheels[file]}, the inventory says {digest}"
                    )
                wheels[file] = digest
        result.append(Pin(pin.name, pin.version, wheels, pin.marker))
    return result


def _group(
    directory: str | Path, group: str, python: str, glibc: str, completed: dict[str, str]
) -> list[Pin]:
    path = Path(directory) / f"{group}.txt"
    pins = with_completions(parse(path.read_text(encoding="utf-8"), path.name), completed)
    return [Pin(pin.name, pin.version, pin.matching(python, glibc)) for pin in pins if pin.wanted(python)]


def plan(
    directory: str, runtime: str, python: str, glibc: str, completions: dict[str, Any]
) -> dict[str, Any]:
    """What a release of ``runtime`` consists of for one interpreter.

    Returns ``groups`` (each: name, index, lock text with only the wheels that fit), ``incomplete`` (the
    requirements that have no hash for this interpreter) and ``supported`` (Python versions of the runtime).
    """
    described = runtimes(directory)
    if runtime not in described["runtimes"]:
        known = ", ".join(described["runtimes"])
        raise LockError(f"{directory} has no runtime '{runtime}'; it has: {known}")
    entry = described["runtimes"][runtime]
    completed = (completions or {}).get(runtime, {}).get("wheels", {})
    groups, incomplete = [], []
    for group in entry["groups"]:
        pins = _group(directory, group, python, glibc, completed)
        incomplete += [f"{pin.name}=={pin.version}" for pin in pins if not pin.wheels]
        groups.append({"name": group, "index": described["groups"][group]["index"], "lock": render(pins)})
    return {**entry, "groups": groups, "incomplete": incomplete, "supported": entry["pythons"]}


def release_id(parts: dict[str, Any]) -> str:
    """A short name that changes when, and only when, anything that the release is made of changes."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class FilterModule:
    """What templates see."""

    def filters(self) -> dict[str, Any]:
        """Names of the filters."""
        return {"tts_runtime_plan": plan, "tts_runtime_release_id": release_id}
