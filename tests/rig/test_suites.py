"""The runner of the suites: a failed suite's reason stands at the end, where a log's reader looks first."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path
from types import ModuleType

import pytest

import suites


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The runner with its logs elsewhere."""
    monkeypatch.setattr(suites, "LOGS", tmp_path / "logs")
    return suites


def program(code: str) -> str:
    return shlex.join([sys.executable, "-c", code])


def test_a_failed_suite_is_told_again_at_the_end_and_does_not_stop_the_others(
    runner: ModuleType, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(
        runner,
        "SUITES",
        {
            "broken": (program("print('the reason'); raise SystemExit(3)"), program("print('never')")),
            "fine": (program("print('noise\\n' * 200)"),),
        },
    )
    assert runner.main([]) == 1
    output = capfdbinary.readouterr().out.decode()
    assert "never" not in output.replace("print('never')", "")
    assert "the reason" in output.splitlines()[-10:]
    assert "broken       FAILED" in output
    assert "fine         passed" in output
    assert output.rstrip().endswith("1 passed, 1 failed")
    assert "the reason" in (runner.LOGS / "broken.log").read_text()


def test_what_disturbs_nobody_runs_beside_the_others(
    runner: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
    tmp_path: Path,
) -> None:
    """The first waits for what the second one writes: one after the other they would never end."""
    sign = tmp_path / "sign"
    wait = f"import pathlib, time\nwhile not pathlib.Path({str(sign)!r}).exists(): time.sleep(0.01)"
    suites_of_this_test = {
        "meets": (program(f"{wait}\nprint('met')"),),
        "aside": (program(f"import pathlib; pathlib.Path({str(sign)!r}).touch(); print('wrote')"),),
        "fails": (program("print('why'); raise SystemExit(1)"),),
    }
    monkeypatch.setattr(runner, "SUITES", suites_of_this_test)
    monkeypatch.setattr(runner, "BESIDE", ("aside", "fails"))
    assert runner.main([]) == 1
    output = capfdbinary.readouterr().out.decode()
    assert output.index("met\n=== meets: passed") < output.index("wrote\n=== aside: passed")
    assert "why" in output.splitlines()[-10:]
    assert output.rstrip().endswith("2 passed, 1 failed")


def test_a_process_that_a_suite_leaves_behind_does_not_hold_the_runner(
    runner: ModuleType, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    leaver = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True)"
    monkeypatch.setattr(runner, "SUITES", {"leaver": (program(leaver),)})
    assert runner.main([]) == 0
    pid = next(int(line) for line in capfdbinary.readouterr().out.decode().splitlines() if line.isdigit())
    os.kill(pid, signal.SIGTERM)  # it still runs: nobody waited for it


def test_of_an_ansible_log_the_task_that_failed_is_told() -> None:
    log = [
        "TASK [Run the tests]",
        "\x1b[31m  │ fatal: [host]: FAILED! =>\x1b[0m",
        *(f"  │ noise {number}" for number in range(200)),
        "  │ E   assert 1 == 2",
        "  │ PLAY RECAP",
        *(f"destroy {number}" for number in range(100)),
        "=== FAILED",
    ]
    told = suites.reason("\n".join(log))
    assert "  │ E   assert 1 == 2" in told
    assert told[-1] == "=== FAILED"
    assert len(told) <= suites.AGAIN + 1


def test_of_another_log_the_end_is_told() -> None:
    told = suites.reason("\n".join(str(number) for number in range(500)))
    assert told == [str(number) for number in range(500 - suites.AGAIN, 500)]
