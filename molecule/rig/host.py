"""Up and down: what the command line, molecule and the demo call."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from . import capabilities, cgroup, image, paths, record
from .errors import RigError

#: Sockets of ssh's connection sharing; a path under the cache could be too long for a socket.
SOCKETS = Path("/run/qwen3-tts-rig")
#: A boot takes one to three seconds; a machine that is busy with other things may need a hundred times that.
BOOT_S = 300


def lock_file(host: record.Host) -> Path:
    """Only one ``up`` or ``down`` of a host at a time."""
    return host.directory.parent / f".{host.name}.lock"


def up(alias: str, suite: str, binds: tuple[tuple[str, str], ...] = ()) -> record.Host:
    """A running host; the one that is there already when it was asked for the same.

    Raises:
        RigError: a capability is missing, the image cannot be built, or the host does not boot. Nothing of
            the host is left then.
    """
    capabilities.require()
    request = record.Request(str(image.ensure(suite)), binds)
    host = record.named(alias)
    with paths.locked(lock_file(host)):
        if host.running() and host.request() == request and answers(host):
            return host
        remove(host)
        try:
            prepare(host, request)
            start(host)
            wait_until_booted(host)
        except BaseException:  # an interrupt as well: nothing may stay behind
            remove(host)
            raise
    return host


def down(alias: str) -> bool:
    """Stop the host and remove all of it; False when there was none."""
    host = record.named(alias)
    with paths.locked(lock_file(host)):
        existed = host.directory.exists()
        remove(host)
    lock_file(host).unlink(missing_ok=True)
    return existed


def prepare(host: record.Host, request: record.Request) -> None:
    """Lay out the host's directory: overlay layers, its own ssh key, and the key by which we know it."""
    for source, _ in request.binds:
        if not Path(source).is_dir():
            raise RigError(f"cannot bind {source} into the host: no such directory")
    for name in ("upper", "work", "root"):
        (host.directory / name).mkdir(parents=True)
    for name in ("key", "hostkey"):
        target = str(host.directory / name)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", host.name, "-f", target], check=True
        )
    host.write_request(request)


def start(host: record.Host) -> None:
    """Start the supervisor in a session and a mount namespace of its own, and wait for its network."""
    command = [
        *cgroup.launcher(host.name),
        *("unshare", "--mount", "--propagation", "private", "--"),
        *(sys.executable, "-m", "rig.supervisor", str(host.directory)),
    ]
    with host.console.open("ab") as console:
        supervisor = subprocess.Popen(
            command,
            cwd=Path(__file__).resolve().parents[1],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
        )
    deadline = time.monotonic() + BOOT_S
    while (running := host.running()) is None:
        if supervisor.poll() is not None or time.monotonic() > deadline:
            stop(supervisor.pid)
            raise RigError(f"the host's supervisor did not start:\n{console_tail(host)}")
        time.sleep(0.02)
    write_ssh_files(host, running)


def write_ssh_files(host: record.Host, running: record.Running) -> None:
    kind, key = (host.directory / "hostkey.pub").read_text().split()[:2]
    known = host.directory / "known_hosts"
    known.write_text(f"{running.address} {kind} {key}\n")
    settings = {
        "HostName": running.address,
        "User": "root",
        "IdentityFile": host.key,
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": known,
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "LogLevel": "ERROR",
    }
    lines = "".join(f"  {name} {value}\n" for name, value in settings.items())
    host.ssh_config.write_text(f"Host {host.alias} {running.address}\n{lines}")


def ssh(host: record.Host, *command: str, timeout: float = 10) -> subprocess.CompletedProcess[str]:
    line = [
        "ssh",
        "-F",
        str(host.ssh_config),
        "-o",
        "BatchMode=yes",
        "-o",
        "ConnectTimeout=3",
        host.alias,
        *command,
    ]
    return subprocess.run(line, capture_output=True, text=True, timeout=timeout, check=False)


def answers(host: record.Host) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return ssh(host, "true").returncode == 0
    return False


def wait_until_booted(host: record.Host) -> None:
    """Wait for ssh, then for the end of the boot.

    Raises:
        RigError: not within the time, or a unit failed; the message carries the console or the unit's name.
    """
    deadline = time.monotonic() + BOOT_S
    while not answers(host):
        if host.running() is None or time.monotonic() > deadline:
            raise RigError(f"the host does not answer on ssh:\n{console_tail(host)}")
        time.sleep(0.1)
    state = ssh(host, "systemctl", "is-system-running", "--wait", timeout=BOOT_S).stdout.strip()
    if state != "running":
        failed = ssh(host, "systemctl", "list-units", "--failed", "--no-legend", "--plain").stdout.strip()
        raise RigError(f"the host booted to the state {state!r}; failed units: {failed or 'none'}")


def console_tail(host: record.Host) -> str:
    lines = host.console.read_text(errors="replace").splitlines() if host.console.exists() else []
    return "\n".join(lines[-30:])


def stop(supervisor: int) -> None:
    """End a supervisor by its pid and wait for it; its children end with it."""
    started = record.started_at(supervisor)
    for number, patience_s in ((signal.SIGTERM, 120), (signal.SIGKILL, 30)):
        if started is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(supervisor, number)
        deadline = time.monotonic() + patience_s
        while record.started_at(supervisor) == started:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        else:
            return
    raise RigError(f"the supervisor (pid {supervisor}) does not end")


def remove(host: record.Host) -> None:
    """Stop the host if it runs and remove what is there of it, also after a killed run."""
    running = host.running()
    if running is not None:
        stop(running.supervisor)
    stored = record.read(host.directory / "running.json")
    if stored is not None:
        cgroup.end(Path(stored["cgroup"]))
    if host.directory.exists():
        image.remove_tree(host.directory)
    sockets = SOCKETS / host.name
    if sockets.exists():
        image.remove_tree(sockets)


def inventory(host: record.Host) -> str:
    """An Ansible inventory with this one host, under its alias."""
    running = host.running()
    if running is None:
        raise RigError(f"{host.alias} is not running")
    variables = {
        "ansible_host": running.address,
        "ansible_user": "root",
        "ansible_ssh_common_args": f"-F {host.ssh_config}",
        "ansible_control_path_dir": str(SOCKETS / host.name),
        "ansible_python_interpreter": "/usr/bin/python3",
        "rig_ssh_config": str(host.ssh_config),
        "rig_gateway": running.gateway,
    }
    return json.dumps({"all": {"hosts": {host.alias: variables}}}, indent=2) + "\n"


def existing() -> list[Path]:
    """The directories of all hosts in the cache, of this checkout and of others."""
    if not paths.hosts().is_dir():
        return []
    return sorted(one for one in paths.hosts().iterdir() if one.is_dir())
