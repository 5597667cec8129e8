"""The command line as a script or an operator meets it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from qwen3_tts_service import __version__
from qwen3_tts_service.cli import SUBCOMMANDS, group

HEAVY = ("torch", "transformers", "flask", "numpy", "pydantic")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from qwen3_tts_service.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_lists_every_subcommand_without_importing_anything_heavy() -> None:
    script = (
        "import sys\n"
        "from qwen3_tts_service.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    for name in SUBCOMMANDS:
        assert name in done.stdout


@pytest.mark.parametrize("name", sorted(SUBCOMMANDS))
def test_every_subcommand_answers_help(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.lower().startswith(f"usage: qwen3-tts {name}")


def test_version() -> None:
    assert CliRunner().invoke(group, ["--version"]).output.strip() == f"qwen3-tts, version {__version__}"


def test_an_unknown_subcommand_is_named_and_exits_2() -> None:
    done = run("speek")
    assert done.returncode == 2
    assert "speek" in done.stderr
    assert "Traceback" not in done.stderr


def test_our_errors_are_one_line_and_exit_1() -> None:
    """``serve`` without a model is the first mistake that anybody makes."""
    done = run("serve")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("qwen3-tts: ")
    assert "QWEN3_TTS_MODEL" in done.stderr
