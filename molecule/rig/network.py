"""A network namespace per host: a veth pair to reach it, slirp4netns for its way out.

No address translation rules, no forwarding, nothing on the build machine's own interfaces. Everything here
goes away with the namespace, and the namespace with the process that holds it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from . import paths
from .errors import RigError

#: Set aside for tests of network equipment (RFC 2544), so no real network is shadowed.
NETWORK = "198.18"
PREFIX = "qtts"
LOCK = Path("/run/lock/qwen3-tts-rig.lock")

#: slirp4netns answers DNS here and asks what the build machine asks.
NAMESERVER = "10.0.2.3"

#: A child must not outlive the supervisor, however that ends.
DIES_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")


@dataclass(frozen=True)
class Link:
    """The veth pair: our end's name and address, the host's address."""

    interface: str
    gateway: str
    address: str


def ip(*arguments: str) -> None:
    attempt = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if attempt.returncode:
        raise RigError(f"ip {' '.join(arguments)}: {attempt.stderr.strip()}")


def hold_namespace() -> subprocess.Popen[bytes]:
    """Start a process that does nothing in a new network namespace; it keeps the namespace over reboots."""
    holder = subprocess.Popen([*DIES_WITH_PARENT, "unshare", "--net", "sleep", "infinity"])
    ours = Path("/proc/self/ns/net").readlink()
    for _ in range(500):
        if holder.poll() is not None:
            raise RigError("cannot create a network namespace")
        if Path(f"/proc/{holder.pid}/ns/net").readlink() != ours:
            return holder
        time.sleep(0.01)
    raise RigError("no network namespace after 5 s")


def connect(holder: int) -> Link:
    """Create the veth pair into the namespace of process ``holder`` and give both ends an address.

    The number of the subnet is the number in the interface's name. Which are free is asked of the kernel
    under a lock that the whole machine shares, so hosts of other checkouts and caches never clash.
    """
    with paths.locked(LOCK):
        taken = {name for _, name in socket.if_nameindex()}
        number = next((one for one in range(1, 255) if f"{PREFIX}{one}" not in taken), None)
        if number is None:
            raise RigError("254 test hosts are running; take some down first")
        link = Link(f"{PREFIX}{number}", f"{NETWORK}.{number}.1", f"{NETWORK}.{number}.2")
        ip("link", "add", link.interface, "type", "veth", "peer", "name", "host0", "netns", str(holder))
    ip("address", "add", f"{link.gateway}/24", "dev", link.interface)
    ip("link", "set", link.interface, "up")
    inside = ("nsenter", "--net", "--target", str(holder), "ip")
    for command in (
        ("link", "set", "lo", "up"),
        ("address", "add", f"{link.address}/24", "dev", "host0"),
        ("link", "set", "host0", "up"),
    ):
        subprocess.run([*inside, *command], check=True)
    return link


def open_egress(holder: int) -> subprocess.Popen[bytes]:
    """Start slirp4netns for the namespace of process ``holder``; returns when the default route is there.

    The build machine's loopback stays out of reach.
    """
    reader, writer = os.pipe()
    options = ("--configure", "--mtu=1500", "--disable-host-loopback", f"--ready-fd={writer}")
    command = [*DIES_WITH_PARENT, "slirp4netns", *options, str(holder), "tap0"]
    process = subprocess.Popen(command, pass_fds=(writer,), stdin=subprocess.DEVNULL)
    os.close(writer)
    with os.fdopen(reader, "rb") as ready:
        if ready.read(1) != b"1":  # end of file: it died
            raise RigError("slirp4netns could not configure the host's network; see the console log")
    return process
