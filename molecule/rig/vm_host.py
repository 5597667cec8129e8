#!/usr/bin/env python3
"""Virtual test hosts: ``python3 -m rig.vm_host up NAME`` in the directory ``molecule``.

``up`` builds the image when its recipe has none, boots a throw-away machine from it and prints one line of
JSON with what ssh needs. ``down`` ends the machine and removes its disk. ``ssh NAME COMMAND`` runs a command.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from . import packages, paths, vm_image, vm_machine
from .errors import RigError

#: Where :func:`main` looks when ``--acceleration`` is not given.
ACCELERATION_VARIABLE = "QWEN3_TTS_VM_ACCELERATION"


def directory_of(name: str) -> Path:
    """Where everything about the machine ``name`` of this checkout lies."""
    return paths.cache() / "rig" / "machines" / paths.checkout_name(name)


def up(name: str, recipe: vm_image.Recipe, memory_mib: int, acceleration: str) -> vm_machine.Machine:
    """Boot a fresh machine and wait for its login; one of the same name is removed first.

    Raises:
        RigError: something is missing or the guest does not boot; then nothing is left behind.
    """
    packages.install(vm_machine.COMMANDS)
    down(name)
    built = vm_image.ensure(recipe)
    if acceleration != "auto":
        return boot(name, built, memory_mib, acceleration, vm_machine.BOOT_TIMEOUT_S)
    try:
        return boot(name, built, memory_mib, "kvm", vm_machine.KVM_PROBE_S)
    except RigError as error:
        print(
            f"KVM does not boot this machine ({str(error).splitlines()[0]}); software emulation", flush=True
        )
        return boot(name, built, memory_mib, "tcg", vm_machine.BOOT_TIMEOUT_S)


def boot(
    name: str, built: vm_image.Image, memory_mib: int, acceleration: str, timeout_s: float
) -> vm_machine.Machine:
    """One attempt: a new disk over the image's, QEMU, a login."""
    directory = directory_of(name)
    directory.mkdir(parents=True)
    disk = directory / "disk.qcow2"
    machine = None
    try:
        vm_image.command("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", built.disk, disk)
        started = time.monotonic()
        machine = vm_machine.start(
            directory,
            built.access,
            disk=disk,
            disk_format="qcow2",
            memory_mib=memory_mib,
            acceleration=acceleration,
        )
        vm_machine.save(machine)
        vm_machine.wait_until_booted(machine, timeout_s)
    except BaseException:
        if machine is not None:
            vm_machine.stop(machine)
        shutil.rmtree(directory)
        raise
    print(
        f"{name} booted in {time.monotonic() - started:.0f} s ({acceleration})", file=sys.stderr, flush=True
    )
    return machine


def down(name: str) -> bool:
    """End the machine and remove its disk; false when there was none."""
    directory = directory_of(name)
    if not directory.is_dir():
        return False
    if (directory / "machine.json").exists():
        vm_machine.stop(vm_machine.load(directory))
    shutil.rmtree(directory)
    return True


def connection(machine: vm_machine.Machine) -> dict[str, object]:
    """What an inventory needs to reach the machine."""
    return {
        "ansible_host": "127.0.0.1",
        "ansible_port": machine.port,
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(machine.access.key),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={machine.known_hosts} -o IdentitiesOnly=yes",
        "ansible_python_interpreter": "/usr/bin/python3",
    }


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m rig.vm_host", description=__doc__)
    commands = parser.add_subparsers(dest="verb", required=True)
    for verb in ("up", "down", "ssh"):
        commands.add_parser(verb).add_argument("name")
    commands.choices["ssh"].add_argument("command", nargs=argparse.REMAINDER)
    options = commands.choices["up"]
    default = vm_image.Recipe()
    options.add_argument("--suite", default=default.suite, help="Debian release (%(default)s)")
    options.add_argument("--memory", type=int, default=2048, metavar="MIB", help="(%(default)s)")
    options.add_argument("--disk", type=int, default=default.disk_gib, metavar="GIB", help="(%(default)s)")
    options.add_argument("--packages", default="", metavar="A,B", help="Debian packages to have in the image")
    options.add_argument(
        "--inventory", type=Path, help="write an Ansible inventory with the machine to this file"
    )
    options.add_argument("--alias", help="the machine's name in that inventory (NAME)")
    options.add_argument(
        "--acceleration",
        choices=("tcg", "kvm", "auto"),
        default=os.environ.get(ACCELERATION_VARIABLE, "tcg"),
        help=f"auto boots with KVM first (%(default)s, or {ACCELERATION_VARIABLE})",
    )
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    """The command line; 1 and one message on a known trouble."""
    arguments = parse(words)
    try:
        if arguments.verb == "up":
            packages = tuple(sorted(filter(None, arguments.packages.split(","))))
            recipe = vm_image.Recipe(arguments.suite, packages, arguments.disk)
            machine = up(arguments.name, recipe, arguments.memory, arguments.acceleration)
            if arguments.inventory:
                hosts = {arguments.alias or arguments.name: connection(machine)}
                arguments.inventory.parent.mkdir(parents=True, exist_ok=True)
                arguments.inventory.write_text(
                    json.dumps({"all": {"hosts": hosts}}, indent=2), encoding="utf-8"
                )
            print(json.dumps(connection(machine)))
        elif arguments.verb == "down":
            print("removed" if down(arguments.name) else "there was no such machine")
        else:
            machine = vm_machine.load(directory_of(arguments.name))
            call = [*vm_machine.ssh_command(machine), shlex.join(arguments.command)]
            return subprocess.run(call, check=False).returncode
    except RigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
