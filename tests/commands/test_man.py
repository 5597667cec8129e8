"""The manual page is made of the commands: nothing of them may be missing, and troff must understand it."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from click.testing import CliRunner

from qwen3_tts_service.cli import SUBCOMMANDS, group


@pytest.fixture(scope="module")
def page() -> str:
    result = CliRunner().invoke(group, ["man"])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_command_and_option_is_there(page: str) -> None:
    plain = page.replace("\\-", "-")
    headings = [line for line in plain.splitlines() if line.startswith(".SS ")]
    for name in (*SUBCOMMANDS, "voices export", "models verify"):
        assert any(line.startswith(f".SS qwen3-tts {name} ") for line in headings), name
    for option in ("--instructions TEXT", "--key-file FILENAME", "-o, --output PATH", "--consent"):
        assert f".B {option}" in plain
    assert "QWEN3_TTS_CLIENT_KEY" in plain
    assert "\n.B 7\nthe server failed, or the answer broke off\n" in plain


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_troff_has_nothing_to_complain_of(page: str) -> None:
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tascii"], input=page, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert "the server is busy" in " ".join(done.stdout.split())
