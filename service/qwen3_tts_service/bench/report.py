"""What a benchmark found: tables with units, for a terminal, for JSON and for a Markdown page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .statistics import Spread

#: Goes up when a reader of the JSON has to change.
SCHEMA = 1

Cell = Spread | float | int | str | None


@dataclass(frozen=True)
class Column:
    """One quantity: its key in the JSON, its heading, its unit and the digits after the point."""

    key: str
    heading: str
    unit: str = ""
    digits: int = 2

    @property
    def title(self) -> str:
        """Heading with unit."""
        return f"{self.heading} [{self.unit}]" if self.unit else self.heading

    def shown(self, value: Cell) -> str:
        """A cell for people: a spread as its median with the percentiles behind it."""
        if value is None:
            return "-"
        if isinstance(value, Spread):
            median, low, high = (f"{number:,.{self.digits}f}" for number in _of(value))
            return f"{median} ({low}-{high})"
        if isinstance(value, float):
            return f"{value:,.{self.digits}f}"
        return str(value)


def _of(value: Spread) -> tuple[float, float, float]:
    return value.median, value.p05, value.p95


@dataclass(frozen=True)
class Table:
    """Rows of cells by column key. ``name`` is what readers of the JSON look for."""

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Cell]]
    notes: Sequence[str] = ()
    #: Keys of the columns of a plot: the first is its x axis, the others are drawn over it.
    plotted: Sequence[str] = ()

    def line(self, row: Mapping[str, Cell]) -> str:
        """One row in a line of its own, for whoever watches: the cells that are there, by their headings."""
        return ", ".join(
            f"{column.title} {column.shown(row[column.key])}"
            for column in self.columns
            if row.get(column.key) is not None
        )

    def cells(self) -> list[list[str]]:
        """Every cell as people read it, headings first."""
        return [
            [column.title for column in self.columns],
            *([column.shown(row.get(column.key)) for column in self.columns] for row in self.rows),
        ]


@dataclass(frozen=True)
class Report:
    """One run of a suite. ``facts`` are single figures and settings, by name."""

    suite: str
    provenance: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    tables: Sequence[Table] = ()

    def as_json(self) -> dict[str, Any]:
        """The content of ``--json``: see ``docs/benchmarks.md`` for its fields."""
        return {
            "schema": SCHEMA,
            "suite": self.suite,
            "provenance": dict(self.provenance),
            "facts": dict(self.facts),
            "tables": [
                {
                    "name": table.name,
                    "title": table.title,
                    "columns": [asdict(column) for column in table.columns],
                    "rows": [{key: _plain(value) for key, value in row.items()} for row in table.rows],
                    "notes": list(table.notes),
                    "plotted": list(table.plotted),
                }
                for table in self.tables
            ],
        }

    def write_json(self, file: Path) -> None:
        """Write :meth:`as_json` into ``file``, which is never half written."""
        beside = file.with_name(file.name + ".new")
        beside.write_text(json.dumps(self.as_json(), indent=1) + "\n", encoding="utf-8")
        beside.replace(file)


def _plain(value: Cell) -> Any:
    return asdict(value) if isinstance(value, Spread) else value


def from_json(content: Mapping[str, Any]) -> Report:
    """The report that :meth:`Report.as_json` gave. Raises ValueError for another schema."""
    if content.get("schema") != SCHEMA:
        raise ValueError(f"schema {content.get('schema')!r} of a report is not {SCHEMA}, which is read here")
    return Report(
        suite=content["suite"],
        provenance=content["provenance"],
        facts=content["facts"],
        tables=[
            Table(
                name=table["name"],
                title=table["title"],
                columns=[Column(**column) for column in table["columns"]],
                rows=[
                    {key: Spread(**value) if isinstance(value, dict) else value for key, value in row.items()}
                    for row in table["rows"]
                ],
                notes=table["notes"],
                plotted=table["plotted"],
            )
            for table in content["tables"]
        ],
    )


def origin(provenance: Mapping[str, Any]) -> str:
    """Host, versions and day in one line."""
    host, versions = provenance["host"], provenance["versions"]
    hardware = [*host["gpu"], f"{host['cores']} cores of {host['cpu']}", f"load {host['load_1min']} before"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{', '.join(hardware)}; {named}; source {provenance['source_hash']}, {provenance['date']}"


def as_text(report: Report, *, terminal: bool) -> str:
    """The report for people: aligned columns, with headings set off when a terminal shows them."""
    lines = [origin(report.provenance), *_facts(report)]
    for table in report.tables:
        lines += ["", _strong(table.title) if terminal else table.title]
        cells = table.cells()
        widths = [max(len(row[index]) for row in cells) for index in range(len(table.columns))]
        for number, row in enumerate(cells):
            # Numbers stand under each other at their right ends; the first column names the row.
            texts = [
                text.ljust(width) if index == 0 else text.rjust(width)
                for index, (text, width) in enumerate(zip(row, widths, strict=True))
            ]
            line = "  ".join(texts).rstrip()
            lines.append(_faint(line) if terminal and number == 0 else line)
        lines += [f"  {note}" for note in table.notes]
    return "\n".join(lines)


def as_markdown(report: Report) -> str:
    """The report for ``docs/benchmarks.md``: each table behind the line that says what it belongs to."""
    source = report.provenance["source_hash"]
    parts = []
    for table in report.tables:
        head, *body = table.cells()
        parts.append(f"<!-- measured: source={source} date={report.provenance['date']} -->")
        parts.append(f"**{table.title}** ({origin(report.provenance)})\n")
        rows = [head, ["---", *["---:"] * (len(head) - 1)], *body]
        parts.append("\n".join(_markdown_row(row) for row in rows))
        parts.append("".join(f"\n{note}  " for note in table.notes) + "\n")
    return "\n".join(parts)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _facts(report: Report) -> list[str]:
    lines = []
    for name, value in report.facts.items():
        if isinstance(value, (list, Mapping)) and not value:
            continue
        if isinstance(value, list):
            lines += [f"{name.replace('_', ' ')}:", *(f"  {_fact(item)}" for item in value)]
        else:
            lines.append(f"{name.replace('_', ' ')}: {_fact(value)}")
    return lines


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_fact(part)}" for name, part in value.items())
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _strong(text: str) -> str:
    return f"\x1b[1m{text}\x1b[0m"


def _faint(text: str) -> str:
    return f"\x1b[4m{text}\x1b[0m"
