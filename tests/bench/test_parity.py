"""The judgement of the GPU's parity, and the script that runs it."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwen3_tts_service.bench import parity
from qwen3_tts_service.bench.plan import Plan

FRAMES = 5
ROOT = Path(__file__).parents[2]


@pytest.fixture
def expected() -> Any:
    codes = np.arange(FRAMES * 16, dtype=np.int32).reshape(FRAMES, 16) % 50
    scores = [[torch.linspace(0, 5, 100) for _ in range(16)] for _ in range(FRAMES)]
    for frame in range(FRAMES):
        for codebook in range(16):
            # The code that was taken is the best, and 99 is the next: so far behind it.
            scores[frame][codebook][codes[frame, codebook]] = 6.0
            scores[frame][codebook][99] = 5.0
    return parity._Upstreams(codes, scores)


def test_equal_codes_hold(expected: Any) -> None:
    row = parity._compared("x", "fp32", [expected.codes.copy()] * 3, [expected])
    assert (row["passed"], row["frames"], row["equal"], row["gap"]) == ("yes", 15, 15, None)


@pytest.mark.parametrize(("ahead", "passed"), [(1.0, "NO"), (1.5e-4, "yes"), (2.5e-4, "NO")])
def test_another_code_holds_only_where_the_candidates_are_close(
    expected: Any, ahead: float, passed: str
) -> None:
    codes = expected.codes.copy()
    codes[3, 7] = 99
    expected.scores[3][7][99] = 6.0 - ahead
    row = parity._compared("x", "fp32", [codes], [expected])
    assert row["passed"] == passed
    assert (row["equal"], row["first_difference"]) == (3, 3)
    assert row["gap"] == pytest.approx(ahead, rel=0.01)


def test_speech_that_ends_early_does_not_hold(expected: Any) -> None:
    assert parity._compared("x", "fp32", [expected.codes[:4]], [expected])["passed"] == "NO"


def test_every_part_of_the_script_names_what_there_is() -> None:
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "tools" / "gpu_check.py")
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    members = {field.name for field in fields(Plan)}
    assert list(script.PARTS) == ["parity", "table", "load"]
    for measurements in script.PARTS.values():
        for _, module, own in measurements:
            assert callable(importlib.import_module(f"qwen3_tts_service.bench.{module}").run)
            assert own.keys() <= members
