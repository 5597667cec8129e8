"""Fixtures: a pristine throw-away environment per test, a patched one and a checkpoint per session."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .environments import Environment, build_base, copy_of, patcher


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return build_base(tmp_path_factory.mktemp("base") / "venv")


@pytest.fixture
def environment(base: Environment, tmp_path: Path) -> Environment:
    """Pristine packages, for this test alone."""
    return copy_of(base, tmp_path / "venv")


@pytest.fixture(scope="session")
def patched(base: Environment, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """All patches applied; tests only look at it."""
    environment = copy_of(base, tmp_path_factory.mktemp("patched") / "venv")
    status, _, message = patcher("apply", "--python", str(environment.python))
    assert status == 0, message
    return environment


@pytest.fixture(scope="session")
def checkpoint(patched: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with random weights."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    code = (
        "import sys; from qwen3_tts_service.checkpoints.synthetic import write;"
        "write(sys.argv[1], geometry='tiny', model_type='custom_voice')"
    )
    done = patched.run(code, str(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def torchaudio_wheel() -> Callable[[str], Path]:
    """A function that returns the package index's wheel of one torchaudio version, kept in the wheel cache."""
    cache = Path(os.environ.get("QWEN3_TTS_CACHE", Path.home() / ".cache" / "qwen3-tts")) / "wheels"

    def fetch(version: str) -> Path:
        pattern = f"torchaudio-{version}-cp311-cp311-manylinux_2_28_x86_64.whl"
        if not list(cache.glob(pattern)):
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache)]
            platform = ["--only-binary=:all:", "--python-version=3.11", "--platform=manylinux_2_28_x86_64"]
            subprocess.run([*command, *platform, f"torchaudio=={version}"], check=True)
        return next(cache.glob(pattern))

    return fetch
