"""Tables for people and for machines say the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from qwen3_tts_service.bench import plot, provenance, report
from qwen3_tts_service.bench.report import Column, Report, Table
from qwen3_tts_service.bench.statistics import Spread, intervals, percentile, seconds_of, spread
from qwen3_tts_service.errors import ConfigurationError

ORIGIN = {
    "source_hash": "0123456789abcdef",
    "date": "2026-01-02",
    "host": {"cpu": "a processor", "cores": 2, "memory_gib": 4.0, "gpu": [], "load_1min": 0.5},
    "versions": {"python": "3.13", "torch": "2.8"},
}
FRAMES = Table(
    name="frames",
    title="A frame",
    columns=[Column("batch", "batch"), Column("ms", "frame", "ms", 1), Column("by", "by")],
    rows=[
        {"batch": 1, "ms": Spread(5.25, 5.0, 6.0, 9), "by": "ours"},
        {"batch": 32, "ms": None, "by": "a|b"},
    ],
    notes=["random weights"],
    plotted=["batch", "ms"],
)
REPORT = Report("engine", ORIGIN, {"rates": {"read": 2.5e10}, "device": "cpu"}, [FRAMES])


def test_the_terminal_has_aligned_columns_and_plain_text_has_no_escapes() -> None:
    text = report.as_text(REPORT, terminal=False)
    assert "\x1b" not in text
    assert "\x1b[1mA frame" in report.as_text(REPORT, terminal=True)
    lines = text.splitlines()
    start = lines.index("A frame")
    assert lines[start + 1] == "batch     frame [ms]    by"
    assert lines[start + 2] == "1      5.2 (5.0-6.0)  ours"
    assert lines[start + 3] == "32                 -   a|b"
    assert lines[start + 4] == "  random weights"
    assert "rates: read 2.5e+10" in text
    assert (
        "2 cores of a processor, load 0.5 before; python 3.13, torch 2.8; source 0123456789abcdef, 2026-01-02"
        in text
    )


def test_json_holds_everything_and_is_read_back(tmp_path: Path) -> None:
    REPORT.write_json(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["schema"] == report.SCHEMA
    assert content["tables"][0]["rows"][0]["ms"] == {"median": 5.25, "p05": 5.0, "p95": 6.0, "count": 9}
    again = report.from_json(content)
    assert again.as_json() == REPORT.as_json()
    assert report.as_text(again, terminal=False) == report.as_text(REPORT, terminal=False)
    with pytest.raises(ValueError, match="schema 99"):
        report.from_json({**content, "schema": 99})


def test_markdown_carries_its_origin_for_the_page() -> None:
    page = report.as_markdown(REPORT)
    assert page.startswith("<!-- measured: source=0123456789abcdef date=2026-01-02 -->\n")
    assert "| 1 | 5.2 (5.0-6.0) | ours |" in page
    # A bar inside a cell would end it.
    assert "a\\|b" in page


def test_this_hosts_origin_is_complete() -> None:
    origin = provenance.collect()
    assert json.loads(json.dumps(origin)) == origin
    assert origin["versions"].keys() >= {"python", "torch", "transformers", "qwen-tts"}
    assert origin["host"]["cores"] >= 1
    assert report.origin(origin)


def test_without_matplotlib_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigurationError, match="pip install matplotlib") as caught:
        plot.draw(REPORT, tmp_path / "plot.png")
    assert caught.value.param == "--plot"


def test_medians_and_percentiles() -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert percentile([7.0], 0.95) == 7.0
    values = [float(number) for number in range(101)]
    assert spread(values) == Spread(50.0, 5.0, 95.0, 101)
    assert spread(values).scaled(2) == Spread(100.0, 10.0, 190.0, 101)
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 0.5)
    assert intervals([1.0, 3.0, 6.0]) == [2.0, 3.0]


def test_warm_ups_do_not_count_and_waiting_does() -> None:
    now = [0.0]
    costs = iter([100.0, 1.0, 2.0])

    def work() -> Any:
        now[0] += next(costs)

    def wait() -> Any:
        now[0] += 0.5

    assert seconds_of(work, repeats=2, wait=wait, warm_ups=1, clock=lambda: now[0]) == [1.5, 2.5]
