#!/usr/bin/env python3
"""Keep ``docs/benchmarks.md`` honest: all figures say which source they were measured on.

A table, and below ``## Figures`` a list that quotes numbers, stands behind
``<!-- measured: source=HASH date=YYYY-MM-DD -->``, with the hash of ``engine/`` and ``codec/`` that
``qwen3-tts bench`` puts into its JSON; one without measurements stands behind ``<!-- not measured -->``. When the
sources change, the word "stale" has to stand beside them.

``--check`` exits 1 and says what is wrong, ``--mark`` writes the word where it is missing and takes it away
where the hash fits again, ``--table FILE`` prints the tables of a report for the page.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
sys.path.insert(0, str(ROOT / "service"))

from qwen3_tts_service.bench import report  # noqa: E402 - the package need not be installed
from qwen3_tts_service.bench.provenance import source_hash  # noqa: E402

_MEASURED = re.compile(r"<!-- measured: source=([0-9a-f]{16}) date=\d{4}-\d{2}-\d{2} -->")
_NOT_MEASURED = "<!-- not measured -->"
_STALE = "> **Stale**: measured on another state of `engine/` and `codec/`.\n\n"
_SECTION = re.compile(r"(?=^<!-- (?:not )?measured|^#)", re.MULTILINE)
_FIGURES = "\n## Figures\n"
_LIST_ITEM = re.compile(r"^- .*\d", re.MULTILINE)
_TABLE_ROW = re.compile(r"^\|.*\d.*\|\s*$", re.MULTILINE)


def problems(page: str, current: str) -> list[str]:
    """What the page claims without saying where from, or of another source than ``current`` without saying so."""
    found, start, figures = [], 0, page.find(_FIGURES)
    for section in _SECTION.split(page):
        line = page.count("\n", 0, start) + 1
        quotes = _TABLE_ROW.search(section) or (0 <= figures < start and _LIST_ITEM.search(section))
        start += len(section)
        measured = _MEASURED.match(section)
        if measured is None and section.startswith("<!-- measured"):
            found.append(f"line {line}: {section.splitlines()[0]} is no origin of figures")
        elif measured is None and not section.startswith(_NOT_MEASURED) and quotes:
            found.append(f"line {line}: figures without an origin")
        elif measured and measured[1] != current and "stale" not in section[measured.end() :].lower():
            found.append(
                f"line {line}: figures of source {measured[1]}, now {current}: say that they are stale"
            )
    return found


def marked(page: str, current: str) -> str:
    """``page`` with the mark at every table of another source, and at no other."""
    parts = []
    for section in _SECTION.split(page.replace(_STALE, "")):
        measured = _MEASURED.match(section)
        if measured and measured[1] != current:
            head, _, rest = section.partition("\n")
            section = f"{head}\n{_STALE}{rest}"
        parts.append(section)
    return "".join(parts)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument(
        "--check", action="store_true", help="exit 1 when the page hides where figures are from"
    )
    action.add_argument("--mark", action="store_true", help="write or take away the word stale")
    action.add_argument("--table", type=Path, metavar="FILE", help="print the tables of a report's JSON")
    arguments = parser.parse_args()
    if arguments.table:
        print(report.as_markdown(report.from_json(json.loads(arguments.table.read_text(encoding="utf-8")))))
        return 0
    page = PAGE.read_text(encoding="utf-8")
    if arguments.mark:
        PAGE.write_text(marked(page, source_hash()), encoding="utf-8")
        return 0
    wrong = problems(page, source_hash())
    for problem in wrong:
        print(f"{PAGE.relative_to(ROOT)}: {problem}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
