"""What is known about a host: ``host.json`` is what was asked for, ``running.json`` who runs it and where."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from . import paths


@dataclass(frozen=True)
class Request:
    """What a host was asked to be; a second ``up`` with an equal request reuses it."""

    image: str
    #: Read-only bind mounts: (directory on the build machine, directory in the host).
    binds: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Running:
    """The process that owns a running host, and how to reach the host."""

    supervisor: int
    #: The supervisor's start in clock ticks since boot: a pid alone may have been given to another process.
    started: int
    address: str
    gateway: str
    interface: str
    #: The host's cgroup: whatever is in it belongs to the host, also when the supervisor is gone.
    cgroup: str


@dataclass(frozen=True)
class Host:
    """A host's directory and the files in it."""

    alias: str
    directory: Path

    @property
    def name(self) -> str:
        """Unique on this machine for this checkout; also the host name inside."""
        return self.directory.name

    @property
    def root(self) -> Path:
        """The overlay's mount point; filled only inside the supervisor's mount namespace."""
        return self.directory / "root"

    @property
    def key(self) -> Path:
        return self.directory / "key"

    @property
    def ssh_config(self) -> Path:
        return self.directory / "ssh_config"

    @property
    def console(self) -> Path:
        """What the host's console and the supervisor said."""
        return self.directory / "console.log"

    def request(self) -> Request | None:
        stored = read(self.directory / "host.json")
        if stored is None:
            return None
        return Request(stored["image"], tuple((source, target) for source, target in stored["binds"]))

    def write_request(self, request: Request) -> None:
        write(self.directory / "host.json", asdict(request))

    def running(self) -> Running | None:
        """The record of a live supervisor; None when there is none or its process is gone."""
        stored = read(self.directory / "running.json")
        if stored is None:
            return None
        running = Running(**stored)
        return running if started_at(running.supervisor) == running.started else None

    def write_running(self, running: Running) -> None:
        write(self.directory / "running.json", asdict(running))


def named(alias: str) -> Host:
    """The host of this checkout called ``alias``, whether it exists or not."""
    return Host(alias, paths.hosts() / paths.checkout_name(alias))


def started_at(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in "ZX":
        return None  # ended, only not yet waited for
    return int(fields[19])


def read(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def write(path: Path, content: dict) -> None:
    """Replace in one step: a reader never sees half a record."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.rename(path)
