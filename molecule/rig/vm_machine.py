"""One QEMU process: start it, talk to the guest over ssh, end it. The only port is on 127.0.0.1."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from .errors import RigError

#: Command -> the Debian package that has it.
COMMANDS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "sfdisk": "fdisk",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}

#: Software emulation boots in about 40 s on two idle cores; on a machine with six times as much to do it was 300 s.
BOOT_TIMEOUT_S = 900
KVM_PROBE_S = 60

ACCELERATION = {
    # A node /dev/kvm proves nothing (nested virtualisation may be broken), so this is the default.
    "tcg": ("-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max"),
    "kvm": ("-accel", "kvm", "-cpu", "host"),
}


@dataclass(frozen=True)
class Access:
    """How the guest is reached: our private key, and the public key that it must show."""

    key: Path
    host_key: Path


@dataclass(frozen=True)
class Machine:
    """A QEMU process and the loopback port of its ssh server."""

    directory: Path
    access: Access
    port: int
    pid: int

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    @property
    def console(self) -> Path:
        return self.directory / "console.log"


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def start(
    directory: Path,
    access: Access,
    *,
    disk: Path,
    disk_format: str,
    memory_mib: int,
    acceleration: str,
    extra: tuple[str, ...] = (),
) -> Machine:
    """Start QEMU in the background; everything about the process lies in ``directory``.

    Raises:
        RigError: QEMU refused to start, in its own words.
    """
    port = free_port()
    words = [
        *("qemu-system-x86_64", "-machine", "q35", *ACCELERATION[acceleration]),
        *("-smp", "2", "-m", str(memory_mib)),
        *("-drive", f"if=none,id=disk,file={disk},format={disk_format},cache=unsafe,discard=unmap"),
        *("-device", "virtio-blk-pci,drive=disk"),
        *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22"),
        *("-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci"),
        *("-display", "none", "-vga", "none", "-serial", f"file:{directory}/console.log", "-monitor", "none"),
        *("-no-user-config", "-nodefaults", "-daemonize", "-pidfile", f"{directory}/qemu.pid", *extra),
    ]
    attempt = subprocess.run(words, capture_output=True, text=True, check=False)
    if attempt.returncode:
        raise RigError(f"QEMU did not start ({acceleration}): {attempt.stderr.strip()[-1000:]}")
    kind, key = access.host_key.read_text(encoding="utf-8").split()[:2]
    (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n", encoding="utf-8")
    return Machine(directory, access, port, int((directory / "qemu.pid").read_text(encoding="utf-8")))


def ssh_command(machine: Machine) -> list[str]:
    """The words that log in to the guest as root; the remote command goes behind them."""
    options = ("BatchMode=yes", "ConnectTimeout=5", f"UserKnownHostsFile={machine.known_hosts}")
    words = ["ssh", "-q", "-i", str(machine.access.key), "-p", str(machine.port)]
    return [*words, *(f"-o{option}" for option in options), "root@127.0.0.1"]


def run(machine: Machine, script: str, *, timeout_s: float = 600) -> str:
    """Run a shell script in the guest and return what it printed.

    Raises:
        RigError: it failed or took too long.
    """
    words = [*ssh_command(machine), script]
    try:
        attempt = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise RigError(f"in the guest: no end after {timeout_s:.0f} s: {script}") from error
    if attempt.returncode:
        raise RigError(f"in the guest: {script!r} ended with {attempt.returncode}:\n{attempt.stderr[-2000:]}")
    return attempt.stdout


def wait_until_booted(machine: Machine, timeout_s: float = BOOT_TIMEOUT_S) -> None:
    """Wait until the guest takes a login.

    Raises:
        RigError: QEMU ended or the time is over; the message carries the end of the console.
    """
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if not alive(machine):
            raise RigError(f"QEMU ended while booting. The console's end:\n{console_tail(machine)}")
        try:
            run(machine, "true", timeout_s=20)
        except RigError:
            time.sleep(0.5)
        else:
            return
    raise RigError(f"no login after {timeout_s:.0f} s. The console's end:\n{console_tail(machine)}")


def console_tail(machine: Machine) -> str:
    """The last words on the guest's serial console."""
    return machine.console.read_text(encoding="utf-8", errors="replace")[-2000:]


def alive(machine: Machine) -> bool:
    """Whether the process is there and is this machine's: process numbers are used again."""
    try:
        words = Path(f"/proc/{machine.pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return f"{machine.directory}/qemu.pid" in words


def power_off(machine: Machine, timeout_s: float = 120) -> None:
    """Shut the guest down cleanly and wait for QEMU's end.

    Raises:
        RigError: it still runs after ``timeout_s``.
    """
    run(machine, "systemctl poweroff --no-block")
    end = time.monotonic() + timeout_s
    while alive(machine):
        if time.monotonic() > end:
            raise RigError(f"still running {timeout_s:.0f} s after poweroff:\n{console_tail(machine)}")
        time.sleep(0.2)


def stop(machine: Machine) -> None:
    """Pull the plug; nothing happens when the machine is off already."""
    if alive(machine):
        os.kill(machine.pid, signal.SIGTERM)
        for _ in range(100):
            if not alive(machine):
                break
            time.sleep(0.1)
        else:
            os.kill(machine.pid, signal.SIGKILL)
    (machine.directory / "qemu.pid").unlink(missing_ok=True)


def save(machine: Machine) -> None:
    """Write down what another process needs to reach this machine."""
    record = {
        "port": machine.port,
        "pid": machine.pid,
        "key": str(machine.access.key),
        "host_key": str(machine.access.host_key),
    }
    (machine.directory / "machine.json").write_text(json.dumps(record), encoding="utf-8")


def load(directory: Path) -> Machine:
    """Read what :func:`save` wrote.

    Raises:
        RigError: no machine was started there.
    """
    file = directory / "machine.json"
    if not file.exists():
        raise RigError(f"no machine in {directory}")
    record = json.loads(file.read_text(encoding="utf-8"))
    return Machine(
        directory, Access(Path(record["key"]), Path(record["host_key"])), record["port"], record["pid"]
    )
