"""Disk images for virtual machines: Debian's ordinary kernel and a real GRUB, built once per recipe, cached.

No loop device and no mount are needed: the file system is written into the image by ``mke2fs -d``, and GRUB
is installed by the guest itself, in a first boot that takes kernel and initial ramdisk from outside.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from . import image, paths, vm_machine
from .errors import RigError

#: On top of the base image's packages. Not the cloud kernel: that one has no amdgpu module.
PACKAGES = ("e2fsprogs", "grub-pc", "initramfs-tools", "linux-image-amd64", "lz4")

ROOT_LABEL = "rigroot"

#: Sectors of 512 bytes: one MiB for GRUB's core image, then the root file system to the end.
PARTITIONS = """label: gpt
start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649
start=4096, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4
"""
ROOT_OFFSET = 4096 * 512
BACKUP_TABLE = 1024 * 1024

FILES = {
    "etc/fstab": f"LABEL={ROOT_LABEL} / ext4 errors=remount-ro 0 1\n",
    # An initial ramdisk with nothing but this machine's disk: software emulation unpacks it at every boot.
    "etc/initramfs-tools/conf.d/rig": "COMPRESS=lz4\nMODULES=list\n",
    "etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\next4\n",
    "etc/systemd/network/80-rig.network": (
        "[Match]\nName=eth0\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n"
        "LinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    ),
    "etc/resolv.conf": "nameserver 10.0.2.3\n",
    # 50-: it stands where a cloud image's own file stands, before what a role adds.
    "etc/default/grub.d/50-rig.cfg": (
        'GRUB_TIMEOUT=0\nGRUB_CMDLINE_LINUX_DEFAULT=""\n'
        'GRUB_CMDLINE_LINUX="console=ttyS0,115200 net.ifnames=0"\nGRUB_TERMINAL=serial\n'
        "GRUB_DISABLE_OS_PROBER=true\n"
    ),
}

#: Each takes seconds of every emulated boot and does nothing for a disk that is thrown away.
MASKED = "systemd-networkd-wait-online.service systemd-timesyncd.service e2scrub_reap.service"

NO_DISK_YET = "grub-pc grub-pc/install_devices_empty boolean true"

FIRST_BOOT = (
    'echo "grub-pc grub-pc/install_devices multiselect /dev/vda" | debconf-set-selections',
    "grub-install --target=i386-pc /dev/vda",
    "update-grub",
)


@dataclass(frozen=True)
class Recipe:
    """What an image is made of; another recipe is another image."""

    suite: str = "bookworm"
    packages: tuple[str, ...] = ()
    disk_gib: int = 12

    def digest(self) -> str:
        """The content hash of everything that goes into the image."""
        parts = {
            **asdict(self),
            "base": image.recipe_digest(self.suite),
            "own": PACKAGES,
            "masked": MASKED,
            "files": FILES,
            "partitions": PARTITIONS,
            "first_boot": FIRST_BOOT,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Image:
    """A built image: a disk that is only ever read, and the keys that open what boots from it."""

    directory: Path

    @property
    def disk(self) -> Path:
        return self.directory / "disk.raw"

    @property
    def access(self) -> vm_machine.Access:
        return vm_machine.Access(self.directory / "key", self.directory / "host_key.pub")


def ensure(recipe: Recipe) -> Image:
    """The image of ``recipe``, built when there is none yet.

    Raises:
        RigError: mmdebstrap, the file system tools or the first boot failed.
    """
    directory = paths.images() / f"vm-{recipe.suite}-{recipe.digest()}"
    with paths.locked(directory.parent / f"vm-{recipe.suite}.lock"):
        if not directory.is_dir():
            build(recipe, directory)
    return Image(directory)


def build(recipe: Recipe, directory: Path) -> None:
    """Build into a directory beside, then rename: an image that exists is complete."""
    if os.geteuid() != 0:
        raise RigError(
            "building a machine image needs root (mmdebstrap, file owners); booting it later does not"
        )
    for leftover in directory.parent.glob(f".building-vm-{recipe.suite}-*"):
        image.remove_tree(leftover)  # of a build that was killed; the lock says that no other build runs
    staging = Path(tempfile.mkdtemp(prefix=f".building-vm-{recipe.suite}-", dir=directory.parent))
    print(
        f"building the {recipe.suite} machine image (once; cached in {directory})",
        file=sys.stderr,
        flush=True,
    )
    started = time.monotonic()
    try:
        make_keys(staging)
        make_root(recipe, staging)
        make_disk(recipe, staging)
        print(
            f"root file system after {time.monotonic() - started:.0f} s; installing GRUB",
            file=sys.stderr,
            flush=True,
        )
        install_boot_loader(Image(staging))
        staging.rename(directory)
    except BaseException:
        image.remove_tree(staging)
        raise
    print(
        f"{recipe.suite} machine image built in {time.monotonic() - started:.0f} s",
        file=sys.stderr,
        flush=True,
    )


def command(*words: str | Path, text: str | None = None) -> None:
    """Run one tool; its own words are the error."""
    attempt = subprocess.run(
        [str(word) for word in words], input=text, capture_output=True, text=True, check=False
    )
    if attempt.returncode:
        raise RigError(
            f"{words[0]} failed ({attempt.returncode}):\n{(attempt.stdout + attempt.stderr)[-3000:]}"
        )


def make_keys(staging: Path) -> None:
    """A key to log in with and the guest's own host key: the connection is verified from the first byte."""
    for name in ("key", "host_key"):
        command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test host", "-f", staging / name)


def make_root(recipe: Recipe, staging: Path) -> None:
    """The guest's root file system as a directory ``root``, kernel and initial ramdisk beside it."""
    overlay = staging / "files"
    for name, content in FILES.items():
        file = overlay / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    (overlay / "etc/hostname").write_text(f"{recipe.suite}-vm\n", encoding="utf-8")
    hooks = (
        f'install -D -m 600 {staging}/key.pub "$1/root/.ssh/authorized_keys"',
        f'install -m 600 {staging}/host_key "$1/etc/ssh/ssh_host_ed25519_key"',
        f'install -m 644 {staging}/host_key.pub "$1/etc/ssh/ssh_host_ed25519_key.pub"',
        'chmod 700 "$1/root/.ssh"',
        f'echo "127.0.1.1 {recipe.suite}-vm" >> "$1/etc/hosts"',
        'chroot "$1" systemctl enable --quiet systemd-networkd ssh',
        f'chroot "$1" systemctl mask --quiet {MASKED}',
    )
    command(
        "mmdebstrap",
        *image.OPTIONS,
        *(f"--customize-hook={hook}" for hook in hooks),
        # Before the kernel is unpacked, so that its initial ramdisk is made once and rightly.
        f'--essential-hook=cp -r {overlay}/. "$1/"',
        # GRUB asks for a disk that only exists in the guest; the first boot answers.
        f'--essential-hook=echo "{NO_DISK_YET}" | chroot "$1" debconf-set-selections',
        f"--include={','.join((*PACKAGES, *recipe.packages))}",
        recipe.suite,
        staging / "root",
        *image.sources(recipe.suite),
    )
    for name in ("vmlinuz", "initrd.img"):
        file = staging / "root" / name
        (staging / name).write_bytes(
            file.resolve().read_bytes() if not file.is_symlink() else read_boot(staging, name)
        )


def read_boot(staging: Path, name: str) -> bytes:
    """The newest kernel's file: Debian's link at the root points into the guest's own ``/boot``."""
    return (staging / "root" / (staging / "root" / name).readlink().as_posix().lstrip("/")).read_bytes()


def make_disk(recipe: Recipe, staging: Path) -> None:
    """A sparse disk with a partition table and the root file system; its directory is gone afterwards."""
    disk = staging / "disk.raw"
    size = recipe.disk_gib * 1024**3
    with disk.open("wb") as file:
        file.truncate(size)
    command("sfdisk", "--quiet", disk, text=PARTITIONS)
    blocks = (size - ROOT_OFFSET - BACKUP_TABLE) // 1024
    options = f"offset={ROOT_OFFSET},lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    command(
        "mke2fs",
        "-q",
        "-F",
        "-t",
        "ext4",
        "-L",
        ROOT_LABEL,
        "-d",
        staging / "root",
        "-E",
        options,
        disk,
        f"{blocks}k",
    )
    image.remove_tree(staging / "root")
    image.remove_tree(staging / "files")


def install_boot_loader(built: Image) -> None:
    """Boot once from outside, let the guest install GRUB on its own disk, power off."""
    directory = built.directory
    kernel = (
        *("-kernel", str(directory / "vmlinuz"), "-initrd", str(directory / "initrd.img")),
        *("-append", f"root=LABEL={ROOT_LABEL} ro console=ttyS0,115200 net.ifnames=0"),
    )
    machine = vm_machine.start(
        directory,
        built.access,
        disk=built.disk,
        disk_format="raw",
        memory_mib=2048,
        acceleration="tcg",
        extra=kernel,
    )
    try:
        vm_machine.wait_until_booted(machine)
        vm_machine.run(machine, " && ".join(FIRST_BOOT))
        vm_machine.power_off(machine)
    finally:
        vm_machine.stop(machine)
    for name in ("vmlinuz", "initrd.img", "console.log", "known_hosts"):
        (directory / name).unlink(missing_ok=True)
