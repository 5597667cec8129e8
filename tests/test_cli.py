"""The command line as a script or an operator meets it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from qwen3_tts_service import __version__
from qwen3_tts_service.cli import SUBCOMMANDS, group

_MAIN = "from qwen3_tts_service.cli import main; main()"
HEAVY = ("torch", "transformers", "flask", "numpy", "pydantic", "av", "soundfile", "waitress")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _MAIN, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def imported(*arguments: str, script: str = _MAIN, **environment: str) -> tuple[str, set[str]]:
    """What a call prints, and every module that it imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | environment,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return done.stdout, {line.rpartition("|")[2].strip() for line in lines}


def test_help_lists_every_subcommand_without_importing_anything_heavy() -> None:
    said, modules = imported("--help")
    assert modules.isdisjoint(HEAVY)
    assert not any(name.startswith("qwen3_tts_service.commands") for name in modules)
    for name in SUBCOMMANDS:
        assert name in said


@pytest.mark.parametrize("name", ["say", "voices", "models", "doctor", "drain"])
def test_what_asks_a_server_needs_nothing_heavy(name: str) -> None:
    said, modules = imported(name, "--help")
    assert "Usage:" in said
    assert modules.isdisjoint(HEAVY)


@pytest.mark.parametrize("name", ["say", "voices"])
def test_a_client_is_enough_with_click(name: str) -> None:
    """As the README promises; what this Python imports by itself is not ours."""
    _, bare = imported(script="")
    _, modules = imported(name, "--help")
    heads = {module.partition(".")[0] for module in modules - bare}
    assert heads - sys.stdlib_module_names == {"click", "qwen3_tts_service"}


def test_a_shell_completes_names_without_importing_what_they_name() -> None:
    words = {"COMP_WORDS": "qwen3-tts s", "COMP_CWORD": "1"}
    said, modules = imported(_QWEN3_TTS_COMPLETE="bash_complete", **words)
    assert said.split() == ["plain,say", "plain,serve"]
    assert modules.isdisjoint(HEAVY)
    words = {"COMP_WORDS": "qwen3-tts say --la", "COMP_CWORD": "2"}
    assert imported(_QWEN3_TTS_COMPLETE="bash_complete", **words)[0].split() == ["plain,--language"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_asks_this_program(shell: str) -> None:
    result = CliRunner().invoke(group, ["completion", shell])
    assert result.exit_code == 0
    assert f"_QWEN3_TTS_COMPLETE={shell}_complete" in result.output


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
