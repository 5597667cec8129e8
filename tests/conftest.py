"""What several suites need: tiny synthetic checkpoints, written once a session, and weights on their way."""

from __future__ import annotations

from pathlib import Path

import pytest

from arriving_weights import ArrivingWeights
from qwen3_tts_service.checkpoints import synthetic


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny custom_voice checkpoint, seed 0. Read only: copy it to change it."""
    return synthetic.write(
        tmp_path_factory.mktemp("tiny") / "custom_voice", geometry="tiny", model_type="custom_voice", seed=0
    )


@pytest.fixture(scope="session")
def base_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base checkpoint, which clones voices, seed 0. Read only: copy it to change it."""
    return synthetic.write(
        tmp_path_factory.mktemp("tiny") / "base", geometry="tiny", model_type="base", seed=0
    )


@pytest.fixture(scope="session")
def design_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny voice_design checkpoint, seed 0. Read only: copy it to change it."""
    return synthetic.write(
        tmp_path_factory.mktemp("tiny") / "voice_design", geometry="tiny", model_type="voice_design", seed=0
    )


@pytest.fixture
def arriving(tmp_path: Path) -> ArrivingWeights:
    """Weights whose download has told once how far it is."""
    found = ArrivingWeights(tmp_path)
    found.tell()
    return found
