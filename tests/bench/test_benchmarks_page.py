"""The page quotes no figure of another source without calling it stale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loose_module import loose_module
from qwen3_tts_service.bench import provenance

ROOT = Path(__file__).parents[2]
NOW, BEFORE = "a" * 16, "b" * 16
TABLE = "| batch | ms |\n| --- | ---: |\n| 1 | 5.9 |\n"


@pytest.fixture(scope="module")
def tool() -> Any:
    return loose_module(ROOT / "tools" / "benchmarks_page.py")


def origin(source: str) -> str:
    return f"<!-- measured: source={source} date=2026-01-02 -->\n"


def test_the_page_says_where_its_figures_are_from(tool: Any) -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert tool.problems(page, provenance.source_hash()) == [], "run tools/benchmarks_page.py --mark"


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        (origin(NOW) + TABLE, None),
        (origin(BEFORE) + "These are stale.\n\n" + TABLE, None),
        (origin(BEFORE) + TABLE, "say that they are stale"),
        # The word beside another table does not count.
        (origin(BEFORE) + "Stale.\n" + TABLE + origin("c" * 16) + TABLE, "source cccc"),
        ("## Stale\n" + origin(BEFORE) + TABLE, "say that they are stale"),
        ("# Figures\n" + TABLE, "without an origin"),
        ("# Page\n## Figures\n### A host\n- A frame takes 5.9 ms.\n", "line 3: figures without an origin"),
        (
            "# Page\n## Figures\n### A host\n" + origin(BEFORE) + "- A frame takes 5.9 ms.\n",
            "say that they are stale",
        ),
        ("# Page\n## Figures\n### A host\n" + origin(NOW) + "- A frame takes 5.9 ms.\n", None),
        ("# Page\n- The 95th percentile.\n## Figures\n- No number.\n", None),
        ("<!-- measured: yesterday -->\n" + TABLE, "is no origin"),
        ("<!-- not measured -->\n" + TABLE, None),
        ("# Words\n| a | b |\n| --- | --- |\n| c | d |\n", None),
    ],
)
def test_a_table_without_an_honest_origin_is_found(tool: Any, page: str, complaint: str | None) -> None:
    found = tool.problems(page, NOW)
    assert len(found) == (complaint is not None)
    assert complaint is None or complaint in found[0]


def test_marking_is_exact_and_is_taken_back(tool: Any) -> None:
    page = "# Page\n\n" + origin(NOW) + TABLE + "\n" + origin(BEFORE) + TABLE
    marked = tool.marked(page, NOW)
    assert tool.problems(marked, NOW) == []
    assert marked.count("Stale") == 1
    assert tool.marked(marked, NOW) == marked
    assert tool.problems(tool.marked(marked, BEFORE), BEFORE) == []
    assert tool.marked(marked, BEFORE).count("Stale") == 1


def test_the_hash_follows_the_measured_sources_and_nothing_else(tmp_path: Path) -> None:
    for part in ("engine", "codec", "api"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "a.py").write_text("1\n")
    first = provenance.source_hash(tmp_path)
    assert first == provenance.source_hash(tmp_path)
    (tmp_path / "api" / "a.py").write_text("2\n")
    (tmp_path / "engine" / "note.md").write_text("2\n")
    assert provenance.source_hash(tmp_path) == first
    (tmp_path / "codec" / "a.py").write_text("2\n")
    second = provenance.source_hash(tmp_path)
    (tmp_path / "codec" / "a.py").rename(tmp_path / "codec" / "b.py")
    third = provenance.source_hash(tmp_path)
    (tmp_path / "codec" / "kernels.cpp").write_text("2\n")
    assert len({first, second, third, provenance.source_hash(tmp_path)}) == 4
