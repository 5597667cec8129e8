"""What is missing is said by name, with a way out, before anything is tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from rig import capabilities
from rig.capabilities import Missing
from rig.errors import RigError


def test_without_root_only_root_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities.os, "geteuid", lambda: 1000)
    with pytest.raises(RigError, match="Missing:\n  root") as raised:
        capabilities.require()
    assert "sudo" in str(raised.value)
    assert "overlay" not in str(raised.value)


def test_everything_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = (
        lambda: Missing("one thing", "a reason", "a way"),
        lambda: None,
        lambda: Missing("another", "its reason", "its way"),
    )
    monkeypatch.setattr(capabilities.os, "geteuid", lambda: 0)
    monkeypatch.setattr(capabilities, "PROBES", probes)
    monkeypatch.setattr(capabilities, "COMMANDS", {})
    with pytest.raises(RigError) as raised:
        capabilities.require()
    for words in ("one thing", "a reason", "a way", "another", "its reason", "its way"):
        assert words in str(raised.value)


@pytest.mark.parametrize("hybrid", [False, True])
def test_cgroup2_is_found_alone_and_beside_version_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hybrid: bool
) -> None:
    hierarchy = tmp_path / "unified" if hybrid else tmp_path
    hierarchy.mkdir(exist_ok=True)
    monkeypatch.setattr(capabilities, "CGROUP_MOUNTS", (tmp_path, tmp_path / "unified"))
    assert capabilities.cgroup() is not None
    for name in ("cgroup.procs", "cgroup.controllers"):
        (hierarchy / name).touch()
    assert capabilities.cgroup_root() == hierarchy
    assert capabilities.cgroup() is None
