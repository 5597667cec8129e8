"""The one process that owns a running host: ``python3 -m rig.supervisor DIRECTORY``.

It is started in a mount namespace of its own and mounts the overlay there, so the build machine never sees
the mount. Asked to stop, it shuts the host down in order. Killed, it leaves the host's own processes behind;
they are all in the host's cgroup, whose path stands in ``running.json``, and the next ``up`` or ``down`` ends
them there. With the last of them the network namespace and its interface go as well.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from . import cgroup, network, record

#: systemd-nspawn's exit status when the host rebooted and cannot be restarted by nspawn itself (--keep-unit).
REBOOT = 133
#: Seconds for an orderly shutdown.
PATIENCE_S = 30


def mount(host: record.Host, request: record.Request) -> None:
    layers = f"lowerdir={request.image},upperdir={host.directory}/upper,workdir={host.directory}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, str(host.root)], check=True)


def personalise(host: record.Host) -> None:
    """What makes this copy of the image this host: name, way to resolve names, ssh keys."""
    etc = host.root / "etc"
    (etc / "hostname").write_text(f"{host.name}\n")
    (etc / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {host.name}\n::1 localhost\n")
    resolv = etc / "resolv.conf"
    resolv.unlink(missing_ok=True)
    resolv.write_text(f"nameserver {network.NAMESERVER}\n")
    (etc / "ssh" / "ssh_host_ed25519_key").write_bytes((host.directory / "hostkey").read_bytes())
    (etc / "ssh" / "ssh_host_ed25519_key").chmod(0o600)
    (etc / "ssh" / "ssh_host_ed25519_key.pub").write_bytes((host.directory / "hostkey.pub").read_bytes())
    home = host.root / "root" / ".ssh"
    home.mkdir(mode=0o700, exist_ok=True)
    (home / "authorized_keys").write_bytes((host.directory / "key.pub").read_bytes())
    (home / "authorized_keys").chmod(0o600)


def boot(host: record.Host, request: record.Request, holder: int, group: Path) -> subprocess.Popen[bytes]:
    """Start systemd-nspawn in the cgroup ``group`` and the network namespace of process ``holder``."""
    group.mkdir()
    enter = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs")]
    nspawn = [
        "systemd-nspawn",
        "--boot",
        f"--directory={host.root}",
        f"--machine={host.name}",
        # There may be no systemd outside to register with or to ask for a unit.
        "--register=no",
        "--keep-unit",
        "--console=pipe",
        "--resolv-conf=off",
        "--link-journal=no",
        "--kill-signal=SIGRTMIN+3",
        f"--network-namespace-path=/proc/{holder}/ns/net",
        # Without these DeviceAllow= and IPAddressAllow= are accepted inside and silently not enforced.
        "--capability=CAP_BPF,CAP_PERFMON,CAP_NET_ADMIN",
        "--system-call-filter=bpf",
        *(f"--bind-ro={source}:{target}" for source, target in request.binds),
    ]
    environment = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
    command = [*enter, *network.DIES_WITH_PARENT, *nspawn]
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask, wait, then insist. systemd-nspawn passes the question on to the host as a power-off."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def asked_to_stop(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def supervise(host: record.Host) -> int:
    """Run the host until it powers off or this process is asked to stop; returns the last exit status."""
    request = host.request()
    if request is None:
        raise SystemExit(f"{host.directory} holds no request")
    processes: list[subprocess.Popen[bytes]] = []
    base = cgroup.own(host.name)
    try:
        mount(host, request)
        personalise(host)
        holder = network.hold_namespace()
        processes.append(holder)
        link = network.connect(holder.pid)
        processes.append(network.open_egress(holder.pid))
        started = record.started_at(os.getpid()) or 0
        host.write_running(
            record.Running(os.getpid(), started, link.address, link.gateway, link.interface, str(base))
        )
        boots = 0
        while True:
            # A fresh cgroup per boot: the last one still divides its controllers and takes no process.
            processes.append(boot(host, request, holder.pid, base / f"boot-{boots}"))
            status = processes[-1].wait()
            if status != REBOOT:
                return status
            processes.pop()
            boots += 1
    finally:
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(
                signal_number, signal.SIG_IGN
            )  # once is enough; a second one must not break this off
        for process in reversed(processes):
            stop(process)
        for group in base.glob("boot-*"):
            cgroup.remove(group)


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked_to_stop)
    directory = Path(sys.argv[1])
    return supervise(record.Host(directory.name, directory))


if __name__ == "__main__":
    sys.exit(main())
