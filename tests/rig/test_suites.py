"""The runner of the suites: a failed suite's reason stands at the end, where a log's reader looks first."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
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


def test_two_suites_run_at_a_time_and_each_is_told_whole(
    runner: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
    tmp_path: Path,
) -> None:
    """The first waits for what the last one writes: with one at a time it would never end."""
    sign = tmp_path / "sign"
    wait = f"import pathlib, time\nwhile not pathlib.Path({str(sign)!r}).exists(): time.sleep(0.01)"
    suites_of_this_test = {
        "meets": (program(f"{wait}\nprint('met')"),),
        "fails": (program("print('why'); raise SystemExit(1)"),),
        "aside": (program(f"import pathlib; print('wrote'); pathlib.Path({str(sign)!r}).touch()"),),
    }
    monkeypatch.setattr(runner, "SUITES", suites_of_this_test)
    assert runner.main([]) == 1
    output = capfdbinary.readouterr().out.decode()
    order = ["met\n=== meets: passed", "why\n=== fails: FAILED", "wrote\n=== aside: passed"]
    assert [text for text in order if text in output] == order
    assert output.index(order[0]) < output.index(order[1])
    assert "why" in output.splitlines()[-10:]
    assert output.rstrip().endswith("2 passed, 1 failed")


def test_nothing_runs_beside_what_measures(
    runner: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def writes(name: str) -> str:
        line = f"open({str(tmp_path / 'order')!r}, 'a').write"
        return program(f"import time; {line}('begin {name} '); time.sleep(0.2); {line}('end {name} ')")

    named = {name: (writes(name),) for name in ("one", "two", "measuring")}
    monkeypatch.setattr(runner, "SUITES", named)
    assert runner.main([]) == 0
    assert "begin measuring end measuring " in (tmp_path / "order").read_text()


def test_after_an_interrupt_no_suite_is_begun(runner: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    second_runs, first_gave_up = threading.Event(), threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, *arguments: bool, **options: bool) -> None:
            first_gave_up.set()
            super().shutdown(*arguments, **options)

    def timed(name: str, terminal: object) -> tuple[str, bool, float]:
        begun.append(name)
        if name == "one":
            assert second_runs.wait(10)
            raise KeyboardInterrupt
        second_runs.set()
        assert first_gave_up.wait(10)
        return name, False, 0.0

    monkeypatch.setattr(runner, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(runner, "timed", timed)
    with pytest.raises(KeyboardInterrupt):
        runner.two_at_a_time(["one", "two", "three"])
    assert sorted(begun) == ["one", "two"]


@pytest.mark.parametrize("measuring", [False, True])
@pytest.mark.parametrize("slow", [False, True])
def test_every_test_is_in_one_suite(slow: bool, measuring: bool) -> None:
    """Of those that the suites tell apart by a marker."""
    marked = {"slow": slow, "measuring": measuring}
    wanted = [
        words[words.index("-m", 3) + 1]
        for commands in suites.SUITES.values()
        for words in map(shlex.split, commands)
        if "-m" in words[3:]
    ]
    assert len(wanted) == 3
    assert [eval(expression, {}, marked) for expression in wanted].count(True) == 1


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
