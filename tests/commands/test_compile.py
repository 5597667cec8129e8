"""``qwen3-tts compile`` as the role's unit calls it: settings from the environment, one line for each part."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(model: Path, cache: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("QWEN3_TTS_")}
    own = {"QWEN3_TTS_MODEL": str(model), "QWEN3_TTS_DEVICE": "cpu", "CACHE_DIRECTORY": str(cache)}
    own |= {f"QWEN3_TTS_{name.upper()}": value for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "qwen3_tts_service.cli", "compile"],
        env=inherited | {"OMP_NUM_THREADS": "1"} | own,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_reference_engine_has_nothing_to_compile(tmp_path: Path) -> None:
    done = run(tmp_path / "none", tmp_path, engine="reference")
    assert (done.returncode, done.stdout) == (0, "engine: reference has nothing to compile\n")


@pytest.mark.slow
def test_every_part_is_told_with_its_way(tiny_checkpoint: Path, tmp_path: Path) -> None:
    done = run(tiny_checkpoint, tmp_path, fastest_way="eager", slots="2")
    assert done.returncode == 0, done.stdout + done.stderr
    name = tiny_checkpoint.name
    for part in ("frames of 1: eager", "frames of 2: eager", "codec: eager (compiling was not asked for)"):
        assert f"{name}: {part}" in done.stdout


@pytest.mark.slow
def test_a_model_of_no_use_is_an_error(tmp_path: Path) -> None:
    done = run(tmp_path / "none", tmp_path)
    assert done.returncode == 1
    assert f"{tmp_path / 'none'} is not a directory" in done.stderr
