"""One measurement in a process of its own: ``python -m qwen3_tts_service.bench MODULE JSON_FILE SETTINGS``.

MODULE is one beside this file that has ``run(plan)``, SETTINGS a JSON object with members of the plan. For
scripts that need nothing but torch and this package; people use ``qwen3-tts bench``. JSON_FILE is written as
rows are found, with the fact ``unfinished`` until the last: a measurement that is stopped leaves what it has.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from .plan import Plan
from .report import Report, as_text


def main(module: str, out: Path, settings: dict[str, Any]) -> None:
    """Measure, write ``out`` and print the tables."""
    members: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
    }
    checkpoint = Path(members.pop("checkpoint"))

    def say(line: str) -> None:
        print(f"{out.stem}: {line}", file=sys.stderr, flush=True)  # noqa: T201

    def keep(so_far: Report) -> None:
        replace(so_far, facts={**so_far.facts, "unfinished": True}).write_json(out)

    plan = Plan(checkpoint, **members, say=say, keep=keep)
    report: Report = import_module(f".{module}", __package__).run(plan)
    report.write_json(out)
    print(as_text(report, terminal=False), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))
