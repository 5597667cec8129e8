"""``python3 -m rig``: boot, stop and list throw-away test hosts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import capabilities, host, image, record
from .errors import RigError


def bind(text: str) -> tuple[str, str]:
    source, colon, target = text.partition(":")
    if not colon or not target.startswith("/"):
        raise argparse.ArgumentTypeError(f"{text!r} is not SOURCE:/TARGET")
    return str(Path(source).expanduser().absolute()), target


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rig", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="say what this machine lacks for booting a host")
    up = commands.add_parser("up", help="boot a host, or reuse it when it runs already")
    up.add_argument("name")
    up.add_argument("--suite", choices=image.SUITES, default="bookworm", help="Debian release (bookworm)")
    up.add_argument(
        "--bind-ro",
        type=bind,
        action="append",
        default=[],
        metavar="SOURCE:TARGET",
        help="show a directory",
    )
    up.add_argument("--inventory", type=Path, help="write an Ansible inventory with the host to this file")
    down = commands.add_parser("down", help="stop a host and remove all of it")
    down.add_argument("name")
    commands.add_parser("list", help="every host in the cache")
    return parser


def main() -> int:
    options = arguments().parse_args()
    if options.command == "check":
        capabilities.require()
        print("this machine can boot test hosts")
    elif options.command == "up":
        booted = host.up(options.name, options.suite, tuple(options.bind_ro))
        if options.inventory:
            options.inventory.parent.mkdir(parents=True, exist_ok=True)
            options.inventory.write_text(host.inventory(booted))
        print(f"{options.name} is up: ssh -F {booted.ssh_config} {options.name}")
    elif options.command == "down":
        print(f"{options.name} {'removed' if host.down(options.name) else 'was not there'}")
    else:
        for directory in host.existing():
            running = record.Host(directory.name, directory).running()
            state = (
                f"up at {running.address} (pid {running.supervisor})"
                if running
                else "dead, left by a killed run"
            )
            print(f"{directory.name}: {state}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RigError as error:
        print(f"rig: {error}", file=sys.stderr)
        sys.exit(1)
