"""The host's own cgroup, in which its systemd is alone and may divide further.

Where systemd is PID 1 the cgroup comes from it: a scope with ``Delegate=yes`` (``launcher``). Elsewhere it is
made by hand in the cgroup2 hierarchy. On a hybrid machine (version 1 controllers) that hierarchy has no
controllers, so limits such as MemoryMax are accepted inside the host and not enforced.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from . import capabilities
from .errors import RigError


def systemd_is_init() -> bool:
    return Path("/run/systemd/system").is_dir()


def launcher(name: str) -> list[str]:
    """What to put before the supervisor's command so that it starts in a cgroup it may divide."""
    if not systemd_is_init():
        return []
    unit = f"--unit=qwen3-tts-rig-{name}-{os.getpid()}"
    return ["systemd-run", "--scope", "--quiet", "--collect", unit, "--property=Delegate=yes", "--"]


def hierarchy() -> Path:
    found = capabilities.cgroup_root()
    if found is None:
        raise RigError("no cgroup2 hierarchy is mounted")
    return found


def own(name: str) -> Path:
    """This process's delegated cgroup, with this process moved into a leaf of it.

    A cgroup that passes controllers on must not hold processes itself, hence the leaf.
    """
    if systemd_is_init():
        path = Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
        base = hierarchy() / path
    else:
        base = hierarchy() / "qwen3-tts-rig" / f"{name}-{os.getpid()}"
        base.mkdir(parents=True)
        for above in (hierarchy(), base.parent):
            pass_controllers_on(above)
    leaf = base / "supervisor"
    leaf.mkdir()
    (leaf / "cgroup.procs").write_text(str(os.getpid()))
    pass_controllers_on(base)
    return base


def pass_controllers_on(group: Path) -> None:
    """Enable every controller for the children, one by one: some machines refuse some of them."""
    for controller in (group / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):
            (group / "cgroup.subtree_control").write_text(f"+{controller}")


def remove(group: Path, attempts: int = 50) -> None:
    """Remove a cgroup and those below it, waiting a moment for processes that are just ending."""
    for _ in range(attempts):
        for directory, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(directory).rmdir()
        if not group.exists():
            return
        time.sleep(0.1)


def end(group: Path) -> None:
    """Kill every process in the cgroup and remove it; only processes that the host started are in there."""
    if not group.exists():
        return
    for _ in range(50):
        for member in group.rglob("cgroup.procs"):
            for pid in member.read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        remove(group, attempts=1)
        if not group.exists():
            return
        time.sleep(0.1)
    raise RigError(f"processes in {group} do not end")
