"""The codec's compiled kernels, built once a session."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for built kernels that no other run has used."""
    return tmp_path_factory.mktemp("kernels")
