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


def test_missing_commands_become_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "there"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(capabilities, "COMMANDS", {"there": "a", "gone": "b", "gone-too": "b"})
    assert capabilities.missing_packages() == ["b"]


def test_apt_is_asked_only_for_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    apt = tmp_path / "apt-get"
    apt.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(capabilities, "COMMANDS", {"sh": "dash"})
    capabilities.install_packages()
    assert not (tmp_path / "calls").exists()
    monkeypatch.setattr(capabilities, "COMMANDS", {"sh": "dash", "no-such-command": "its-package"})
    capabilities.install_packages()
    update, install = (tmp_path / "calls").read_text().splitlines()
    assert update.startswith("update")
    assert install.endswith("its-package")
    assert "dash" not in install


def test_a_machine_without_apt_is_told_the_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RigError, match="slirp4netns"):
        capabilities.install_packages()


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
