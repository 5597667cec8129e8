"""``qwen3-tts drain`` signals a process; what a server makes of it is tested with the server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from qwen3_tts_service.api.signals import RESTORE, WITHDRAW
from qwen3_tts_service.commands.drain import command
from qwen3_tts_service.errors import Unavailable


@pytest.fixture
def received() -> Iterator[list[int]]:
    """The signals that this process got."""
    numbers: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: numbers.append(number))
        for number in (WITHDRAW, RESTORE)
    }
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_process_is_signalled_and_told(received: list[int]) -> None:
    pid = str(os.getpid())
    out = CliRunner().invoke(command, ["--pid", pid, "--json"])
    assert json.loads(out.output) == {"process": os.getpid(), "in_rotation": False}
    back = CliRunner().invoke(command, ["--pid", pid, "--end", "--json"])
    assert json.loads(back.output) == {"process": os.getpid(), "in_rotation": True}
    assert (
        CliRunner()
        .invoke(command, ["--pid", pid])
        .output.endswith("is out of rotation and goes on serving\n")
    )
    assert received == [WITHDRAW, RESTORE, WITHDRAW]


def test_a_process_without_a_handler_is_left_alone() -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        result = CliRunner().invoke(command, ["--pid", str(other.pid)])
        other.kill()
    assert other.returncode == -signal.SIGKILL
    assert isinstance(result.exception, Unavailable)
    assert "is no qwen3-tts server" in result.exception.message
