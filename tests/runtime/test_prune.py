"""Old releases go, those in use stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from wheel_files import ROOT

from loose_module import loose_module

prune = loose_module(ROOT / "roles" / "tts_runtime" / "library" / "tts_runtime_prune.py")


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    """Finished releases a (oldest) to d (newest), and an unfinished one."""
    folder = tmp_path / "releases"
    for age, name in enumerate("abcd"):
        marker = folder / name / "release.json"
        marker.parent.mkdir(parents=True)
        marker.write_text("{}")
        os.utime(marker, (1_000_000 + age, 1_000_000 + age))
    (folder / "unfinished").mkdir()
    return folder


def names(releases: Path, current: str, keep: int, mentioned: str = "") -> list[str]:
    removed, _ = prune.choose(releases, current, keep, mentioned)
    return [path.name for path in removed]


def test_the_current_one_and_the_newest_beside_it_stay(releases: Path) -> None:
    assert names(releases, "d", 2) == ["a", "b", "unfinished"]
    assert names(releases, "d", 1) == ["a", "b", "c", "unfinished"]


def test_the_current_one_stays_however_old_it_is(releases: Path) -> None:
    assert names(releases, "a", 2) == ["b", "c", "unfinished"]


def test_the_current_one_stays_although_it_is_not_finished(releases: Path) -> None:
    assert "unfinished" not in names(releases, "unfinished", 1)


def test_a_release_that_a_unit_names_stays(releases: Path, tmp_path: Path) -> None:
    drop_in = tmp_path / "units" / "qwen3-tts.service.d" / "10-release.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text(f"[Service]\nExecStart={releases}/a/venv/bin/qwen3-tts serve\n")
    mentioned = prune.named_by_units(tmp_path / "units")
    removed, in_use = prune.choose(releases, "d", 1, mentioned)
    assert [path.name for path in removed] == ["b", "c", "unfinished"]
    assert in_use == ["a"]


def test_a_release_that_a_process_runs_from_stays(releases: Path, tmp_path: Path) -> None:
    process = tmp_path / "proc" / "4711"
    process.mkdir(parents=True)
    (process / "cmdline").write_bytes(f"{releases}/b/venv/bin/python\0-m\0qwen3_tts_service".encode())
    mentioned = prune.named_by_processes(tmp_path / "proc")
    assert "b" not in names(releases, "d", 1, mentioned)


def test_a_name_that_only_begins_alike_does_not_count(releases: Path) -> None:
    assert "a" in names(releases, "d", 1, f"{releases}/ab/venv/bin/python")


def test_before_the_first_release_there_is_nothing_to_remove(tmp_path: Path) -> None:
    assert prune.choose(tmp_path / "releases", "a", 2, "") == ([], [])
