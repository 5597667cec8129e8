"""What the rig installs on the build machine, and what it asks for where it cannot."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from rig import packages, paths
from rig.errors import RigError

WANTED = {"sh": "dash", "no-such-command": "its-package"}


@pytest.fixture
def apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A stand-in for apt-get; the file that it writes its calls to."""
    program = tmp_path / "apt-get"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(packages, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(packages.os, "geteuid", lambda: 0)
    return tmp_path / "calls"


def test_missing_commands_become_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "there"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert packages.missing({"there": "a", "gone": "b", "gone-too": "b"}) == ["b"]


def test_apt_is_asked_only_for_what_is_missing(apt: Path) -> None:
    packages.install({"sh": "dash"})
    assert not apt.exists()
    packages.install(WANTED)
    update, install = apt.read_text().splitlines()
    assert update.startswith("update")
    assert install.endswith("its-package")
    assert "dash" not in install


def test_what_another_process_has_just_installed_is_not_installed_again(
    monkeypatch: pytest.MonkeyPatch, apt: Path
) -> None:
    """Two hosts are made at a time; apt-get itself does not wait for another one."""
    wants = threading.Event()
    monkeypatch.setattr(packages.os, "geteuid", lambda: wants.set() or 0)
    with paths.locked(packages.LOCK):
        second = threading.Thread(target=packages.install, args=(WANTED,))
        second.start()
        assert wants.wait(10)
        (apt.parent / "no-such-command").symlink_to("apt-get")
    second.join(10)
    assert not second.is_alive()
    assert not apt.exists()


@pytest.mark.parametrize("user", [0, 1000])
def test_where_apt_cannot_be_used_the_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, apt: Path, user: int
) -> None:
    monkeypatch.setattr(packages.os, "geteuid", lambda: user)
    if user == 0:
        (apt.parent / "apt-get").unlink()
        monkeypatch.setenv("PATH", str(apt.parent))
    with pytest.raises(RigError, match="its-package"):
        packages.install(WANTED)
    assert not apt.exists()
