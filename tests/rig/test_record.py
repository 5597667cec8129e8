"""A host's record is believed only while its very process lives."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from rig import host, paths, record
from rig.errors import RigError
from rig.record import Host, Request, Running


@pytest.fixture
def sleeper() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def running(pid: int, started: int) -> Running:
    return Running(pid, started, "198.18.1.2", "198.18.1.1", "qtts1", "/sys/fs/cgroup/none")


def test_a_live_supervisor_is_running(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    one = Host("one", tmp_path)
    assert one.running() is None
    started = record.started_at(sleeper.pid)
    assert started is not None
    one.write_running(running(sleeper.pid, started))
    assert one.running() == running(sleeper.pid, started)


def test_a_pid_that_another_process_got_is_not_believed(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    one = Host("one", tmp_path)
    started = record.started_at(sleeper.pid)
    assert started is not None
    one.write_running(running(sleeper.pid, started - 1))
    assert one.running() is None


def test_an_ended_process_has_no_start(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)  # ended, not yet waited for: a zombie
    assert record.started_at(sleeper.pid) is None


def test_a_request_comes_back_equal(tmp_path: Path) -> None:
    one = Host("one", tmp_path)
    request = Request("/images/bookworm-1", (("/wheels", "/srv/wheelhouse"),))
    one.write_request(request)
    assert one.request() == request
    assert one.request() != Request("/images/bookworm-2", request.binds)


def test_two_checkouts_have_two_hosts_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = record.named("demo").name
    monkeypatch.setattr(paths, "CHECKOUT", Path("/somewhere/else"))
    assert record.named("demo").name != ours
    assert ours.startswith("demo-")


def test_stopping_ends_the_supervisor_and_waits_for_it(sleeper: subprocess.Popen[bytes]) -> None:
    host.stop(sleeper.pid)
    assert record.started_at(sleeper.pid) is None


def test_a_dead_host_has_no_inventory(tmp_path: Path) -> None:
    with pytest.raises(RigError, match="one is not running"):
        host.inventory(Host("one", tmp_path))


def test_the_remains_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    one = Host("one", tmp_path / "one")
    (one.directory / "upper").mkdir(parents=True)
    one.write_running(running(2**22 - 1, 1))
    host.remove(one)
    assert not one.directory.exists()
