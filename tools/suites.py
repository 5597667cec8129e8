#!/usr/bin/env python3
"""Run the test suites one after the other and print how long each took.

``tools/suites.py`` runs everything, ``tools/suites.py lint unit`` runs those two. A suite that fails does
not stop the others; the exit status is 1 when any failed. Standard library only.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ".venv/bin/python"
ANSIBLE = ".venv-ansible/bin"
UNIT = f"{PYTHON} -m pytest -q --durations=5 --ignore=tests/sitepatches --ignore=tests/demo"

#: Suite -> its commands, in order. Each is run from the repository's root.
SUITES: dict[str, tuple[str, ...]] = {
    "lint": (
        f"{PYTHON} -m ruff check .",
        f"{PYTHON} -m ruff format --check .",
        f"{PYTHON} -m mypy",
        f"{ANSIBLE}/ansible-lint --offline --profile production",
        f"{PYTHON} tools/variables.py --check",
    ),
    "unit": (f"{UNIT} -m 'not slow'",),
    "slow": (f"{UNIT} -m slow",),
    "patches": (f"{PYTHON} -m pytest -q --durations=5 tests/sitepatches",),
    "default": (f"{ANSIBLE}/molecule test -s default",),
    "debian13": (f"{ANSIBLE}/molecule test -s debian13",),
    "kernel": (f"{ANSIBLE}/molecule test -s kernel",),
    "demo": (f"{PYTHON} -m pytest -q -s tests/demo",),
}


def environment() -> dict[str, str]:
    """The caller's environment with the controller's tools on PATH, as molecule and ansible-lint expect."""
    tools = str(ROOT / ANSIBLE)
    return {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}


def run(name: str) -> bool:
    """Run one suite; true when every command of it succeeded."""
    for command in SUITES[name]:
        print(f"\n=== {name}: {command}", flush=True)
        if subprocess.run(shlex.split(command), cwd=ROOT, env=environment(), check=False).returncode:
            return False
    return True


def main(names: list[str]) -> int:
    """Run the named suites, or all of them."""
    unknown = [name for name in names if name not in SUITES]
    if unknown:
        print(f"no suite named {', '.join(unknown)}; there are {', '.join(SUITES)}", file=sys.stderr)
        return 2
    results: list[tuple[str, bool, float]] = []
    for name in names or SUITES:
        started = time.monotonic()
        passed = run(name)
        results.append((name, passed, time.monotonic() - started))
        print(f"=== {name}: {'passed' if passed else 'FAILED'} in {results[-1][2]:.0f} s", flush=True)
    print("\nsuite        result   seconds")
    for name, passed, seconds in results:
        print(f"{name:<12} {'passed' if passed else 'FAILED':<8} {seconds:7.0f}")
    failed = sum(not passed for _, passed, _ in results)
    print(f"total {sum(seconds for *_, seconds in results):.0f} s")
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
