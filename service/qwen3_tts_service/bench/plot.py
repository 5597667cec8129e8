"""Draw a report's tables into an image file, where matplotlib is installed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from .report import Cell, Column, Report, Table, origin
from .statistics import Spread

_INCHES = (7.0, 4.0)


def require() -> Any:
    """matplotlib's ``figure`` module. Raises ConfigurationError saying how to get it, or what to use instead."""
    try:
        return importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ConfigurationError(
            "--plot needs matplotlib, which is not installed with the service: install it beside it "
            "(pip install matplotlib), or take --json and draw elsewhere",
            param="--plot",
        ) from error


def draw(report: Report, file: Path) -> None:
    """One plot for each table that names columns to draw. The file's ending chooses the format.

    Raises ConfigurationError without matplotlib, for a format it does not write, and when nothing is to draw.
    """
    figures = require()
    tables = [table for table in report.tables if table.plotted and table.rows]
    if not tables:
        raise ConfigurationError(f"the suite {report.suite} has nothing to draw", param="--plot")
    # A figure made without pyplot needs no display and keeps no global state.
    figure = figures.Figure(figsize=(_INCHES[0], _INCHES[1] * len(tables)), layout="constrained")
    axes = figure.subplots(len(tables), 1, squeeze=False)
    for (place,), table in zip(axes, tables, strict=True):
        _draw_table(place, table)
    figure.suptitle(origin(report.provenance), fontsize="x-small", wrap=True)
    try:
        figure.savefig(file)
    except ValueError as error:
        raise ConfigurationError(f"{file}: {error}", param="--plot") from error


def _draw_table(place: Any, table: Table) -> None:
    columns: dict[str, Column] = {column.key: column for column in table.columns}
    x_key, *drawn = table.plotted
    ticks = [str(row[x_key]) for row in table.rows]
    for key in drawn:
        points = [(index, row[key]) for index, row in enumerate(table.rows) if row.get(key) is not None]
        middle = [_median(value) for _, value in points]
        errors = [
            [_median(value) - _low(value) for _, value in points],
            [_high(v) - _median(v) for _, v in points],
        ]
        place.errorbar(
            [index for index, _ in points],
            middle,
            yerr=errors,
            marker="o",
            capsize=3,
            label=columns[key].title,
        )
    place.set_xticks(range(len(ticks)), ticks)
    place.set_xlabel(columns[x_key].title)
    place.set_ylim(bottom=0)
    place.set_title(table.title, fontsize="small")
    place.legend(fontsize="small")


def _median(value: Cell) -> float:
    return value.median if isinstance(value, Spread) else float(value or 0)


def _low(value: Cell) -> float:
    return value.p05 if isinstance(value, Spread) else float(value or 0)


def _high(value: Cell) -> float:
    return value.p95 if isinstance(value, Spread) else float(value or 0)
