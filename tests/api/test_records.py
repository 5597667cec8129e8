"""What is remembered of requests: for whom, for how long, and how many."""

from __future__ import annotations

import pytest

from qwen3_tts_service.api import records
from qwen3_tts_service.api.records import Record, Records


def test_a_record_is_told_to_the_key_that_made_the_request() -> None:
    kept = Records()
    kept.keep(Record("a", "alice", lambda: {"seed": 1}))
    found = kept.find("a", "alice")
    assert found is not None
    assert found.facts() == {"seed": 1}
    assert kept.find("a", "bob") is None
    assert kept.find("b", "alice") is None


def test_the_oldest_go_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MOST", 3)
    kept = Records()
    for name in "abcde":
        kept.keep(Record(name, "-", dict))
    assert [name for name in "abcde" if kept.find(name, "-")] == ["c", "d", "e"]


def test_what_is_old_is_forgotten() -> None:
    kept = Records()
    old = Record("old", "-", dict)
    old.begun -= records.KEPT_S + 1
    kept.keep(old)
    assert kept.find("old", "-") is None
    kept.keep(Record("new", "-", dict))
    assert list(kept._records) == ["new"]
