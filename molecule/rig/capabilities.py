"""What the build machine must allow, probed by doing it, and the sentence for each thing that is missing."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import packages, paths
from .errors import RigError

#: Command -> the Debian package that has it.
COMMANDS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "slirp4netns": "slirp4netns",
    "ip": "iproute2",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "curl": "curl",
}

#: Where the cgroup2 hierarchy is mounted: alone, or beside version 1 controllers (hybrid).
CGROUP_MOUNTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))


@dataclass(frozen=True)
class Missing:
    """One capability that is not there: what, why the rig needs it, how to get it."""

    what: str
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}\n    needed for: {self.why}\n    way out:    {self.remedy}"


def cgroup_root() -> Path | None:
    """The mount point of the cgroup2 hierarchy; None when there is none."""
    for candidate in CGROUP_MOUNTS:
        if (candidate / "cgroup.procs").exists() and (candidate / "cgroup.controllers").exists():
            return candidate
    return None


def root_user() -> Missing | None:
    if os.geteuid() == 0:
        return None
    return Missing(
        "root", "mounts, namespaces and a system that boots as on a real host", "run the command with sudo"
    )


def namespaces() -> Missing | None:
    probe = ["unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "true"]
    attempt = subprocess.run(probe, capture_output=True, text=True, check=False)
    if attempt.returncode == 0:
        return None
    return Missing(
        f"the right to create namespaces ({attempt.stderr.strip()})",
        "each test host is its own mount, network, process and host name namespace",
        "run on a virtual or real machine; inside a container start that with --privileged",
    )


def overlay() -> Missing | None:
    target = paths.cache() / "rig"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="probe-", dir=target) as directory:
        for name in ("lower", "upper", "work", "root"):
            Path(directory, name).mkdir()
        layers = f"lowerdir={directory}/lower,upperdir={directory}/upper,workdir={directory}/work"
        # In a mount namespace of its own, so that a probe that is killed leaves no mount behind.
        command = [
            "unshare",
            "--mount",
            "mount",
            "-t",
            "overlay",
            "overlay",
            "-o",
            layers,
            f"{directory}/root",
        ]
        attempt = subprocess.run(command, capture_output=True, text=True, check=False)
    if attempt.returncode == 0:
        return None
    return Missing(
        f"overlayfs on {target} ({attempt.stderr.strip()})",
        "throw-away hosts over one cached image",
        "modprobe overlay, or set QWEN3_TTS_CACHE to a directory on ext4 or xfs (never on another overlay)",
    )


def cgroup() -> Missing | None:
    found = cgroup_root()
    if found is None:
        return Missing(
            "a cgroup2 hierarchy on /sys/fs/cgroup or /sys/fs/cgroup/unified",
            "systemd inside the host",
            "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified",
        )
    if os.access(found, os.W_OK):
        return None
    return Missing(
        f"the right to create cgroups in {found}",
        "systemd inside the host",
        "mount it read-write, or run with --privileged",
    )


def tun() -> Missing | None:
    if Path("/dev/net/tun").exists():
        return None
    return Missing(
        "/dev/net/tun",
        "the host's way out to the package mirror (slirp4netns)",
        "mkdir -p /dev/net && mknod /dev/net/tun c 10 200, or modprobe tun",
    )


PROBES: tuple[Callable[[], Missing | None], ...] = (namespaces, overlay, cgroup, tun)


def missing() -> list[Missing]:
    """Everything that is missing, not only the first thing."""
    not_root = root_user()
    if not_root is not None:
        return [not_root]  # every other probe would fail for this reason alone
    return [found for probe in PROBES if (found := probe()) is not None]


def require() -> None:
    """Install the rig's own needs, then probe.

    Raises:
        RigError: a capability is missing; the message names every one of them and the way out.
    """
    not_root = root_user()
    if not_root is not None:
        raise RigError(f"this machine cannot boot a test host. Missing:\n  {not_root}")
    packages.install(COMMANDS)
    found = missing()
    if found:
        listed = "\n".join(f"  {one}" for one in found)
        raise RigError(f"this machine cannot boot a test host. Missing:\n{listed}")
