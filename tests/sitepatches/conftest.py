"""Fixtures: a pristine throw-away environment per test, a patched one and a checkpoint per session."""

from __future__ import annotations

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
