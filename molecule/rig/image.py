"""Debian base images: built once per recipe by mmdebstrap, cached, then only ever read."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from . import paths
from .errors import RigError

SUITES = ("bookworm", "trixie")

#: What a minimal server installation has, and nothing that a role should bring itself.
PACKAGES = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "kmod",
    "libpam-systemd",
    "openssh-server",
    "procps",
    "python3",
    "python3-apt",
    "systemd",
    "systemd-sysv",
    "udev",
)

#: Certificates that this machine's administrator trusts; the host must reach the same mirrors.
LOCAL_CERTIFICATES = Path("/usr/local/share/ca-certificates")

HOOKS = (
    # Keys and machine ids are per host, never per image.
    'rm -f "$1"/etc/ssh/ssh_host_*',
    ': > "$1/etc/machine-id"',
    f'mkdir -p "$1{LOCAL_CERTIFICATES}"',
    f'find {LOCAL_CERTIFICATES} -name "*.crt" -exec cp -t "$1{LOCAL_CERTIFICATES}" {{}} +',
    'chroot "$1" update-ca-certificates >/dev/null 2>&1',
    # A test host has no use for timers that would wake up in the middle of a measurement.
    'chroot "$1" systemctl mask --quiet apt-daily.timer apt-daily-upgrade.timer',
)

OPTIONS = (
    "--mode=root",
    "--variant=minbase",
    f"--include={','.join(PACKAGES)}",
    '--aptopt=Acquire::Languages "none"',
    '--aptopt=Apt::Install-Recommends "false"',
    # The package lists stay: a real host has them, and check mode asks them.
    "--skip=cleanup/apt/lists",
    *(f"--customize-hook={hook}" for hook in HOOKS),
)


def sources(suite: str) -> list[str]:
    """The mirror lines for mmdebstrap: none (its default mirror) unless the environment names mirrors."""
    mirror = os.environ.get("QWEN3_TTS_DEBIAN_MIRROR")
    security = os.environ.get("QWEN3_TTS_DEBIAN_SECURITY_MIRROR")
    if bool(mirror) != bool(security):
        raise RigError("set both QWEN3_TTS_DEBIAN_MIRROR and QWEN3_TTS_DEBIAN_SECURITY_MIRROR, or neither")
    if not mirror:
        return []
    return [
        f"deb {mirror} {suite} main",
        f"deb {mirror} {suite}-updates main",
        f"deb {security} {suite}-security main",
    ]


def recipe_digest(suite: str) -> str:
    """The recipe's content hash: another package, hook, mirror or certificate makes another image."""
    certificates = sorted(LOCAL_CERTIFICATES.glob("**/*.crt"))
    recipe = {
        "suite": suite,
        "options": OPTIONS,
        "sources": sources(suite),
        "certificates": [hashlib.sha256(one.read_bytes()).hexdigest() for one in certificates],
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]


def remove_tree(directory: Path) -> None:
    """Remove a root file system; never leaves the file system it lies on, whatever is mounted below."""
    subprocess.run(["rm", "-rf", "--one-file-system", "--", str(directory)], check=True)


def ensure(suite: str) -> Path:
    """The base image of ``suite``, built when this recipe has none yet.

    Raises:
        RigError: unknown suite, or mmdebstrap failed; the message carries the end of its output.
    """
    if suite not in SUITES:
        raise RigError(f"no image recipe for {suite!r}; there are {', '.join(SUITES)}")
    directory = paths.images() / f"{suite}-{recipe_digest(suite)}"
    with paths.locked(directory.parent / f"{suite}.lock"):  # a second caller waits, then finds the image
        if not directory.is_dir():
            build(suite, directory)
    return directory


def build(suite: str, directory: Path) -> None:
    """Build into a directory beside, then rename: an image that exists is complete."""
    for leftover in directory.parent.glob(f".building-{suite}-*"):
        remove_tree(leftover)  # of a build that was killed; the lock says that no other build runs
    staging = Path(tempfile.mkdtemp(prefix=f".building-{suite}-", dir=directory.parent))
    staging.chmod(0o755)  # it becomes the host's /
    print(f"building the {suite} image (once; cached in {directory})", flush=True)
    started = time.monotonic()
    command = ["mmdebstrap", *OPTIONS, suite, str(staging), *sources(suite)]
    attempt = subprocess.run(command, capture_output=True, text=True, check=False)
    if attempt.returncode:
        remove_tree(staging)
        raise RigError(f"mmdebstrap {suite} failed ({attempt.returncode}):\n{attempt.stderr[-3000:]}")
    staging.rename(directory)
    print(f"{suite} image built in {time.monotonic() - started:.0f} s", flush=True)
