"""``python3 -m demo up|down|local``, ``tools``, ``molecule`` and ``service`` on PYTHONPATH, as in the Makefile."""

from __future__ import annotations

import sys

from rig.errors import RigError

from . import local, on_host
from .steps import DemoError

COMMANDS = {"up": on_host.up, "down": on_host.down, "local": local.run}


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:
        print(f"usage: python3 -m demo {'|'.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        COMMANDS[sys.argv[1]]()
    except (RigError, DemoError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
