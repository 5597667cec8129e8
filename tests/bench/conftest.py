"""Measurements of the tiny checkpoint, without a compiler: what is tested is the measuring."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from qwen3_tts_service.bench.plan import Plan


@pytest.fixture
def without_compiling(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is compiled here nor in child processes: it would take minutes and change no figure's meaning."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture
def plan(tiny_checkpoint: Path, without_compiling: None) -> Plan:
    """Everything as small as it can be."""
    return Plan(
        tiny_checkpoint,
        device="cpu",
        dtype="fp32",
        cpu_threads=1,
        batches=(1, 2),
        frames=6,
        repeats=1,
        positions=96,
        slot_positions=128,
        clients=(1, 2),
    )
