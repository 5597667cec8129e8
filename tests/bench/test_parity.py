"""The judgement of the GPU's parity, and the script that runs it."""

from __future__ import annotations

import importlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loose_module import loose_module
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


def gpu_check() -> Any:
    return loose_module(ROOT / "tools" / "gpu_check.py")


def test_every_part_of_the_script_names_what_there_is() -> None:
    script = gpu_check()
    members = {field.name for field in fields(Plan)}
    assert list(script.PARTS) == ["parity", "frames", "http", "rate", "codec", "memory", "load"]
    assert set(script.PARTS) >= script.TOGETHER
    for measurements in script.PARTS.values():
        for one in measurements:
            assert callable(importlib.import_module(f"qwen3_tts_service.bench.{one.module}").run)
            assert one.settings.keys() <= members


def test_every_part_of_the_script_is_over_in_eight_minutes() -> None:
    script = gpu_check()
    for part, measurements in script.PARTS.items():
        seconds = [one.seconds for one in measurements]
        assert (max(seconds) if part in script.TOGETHER else sum(seconds)) < 8 * 60, part


def test_what_does_not_fit_into_the_budget_is_not_started(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["gpu_check.py", "--part", "memory", "--budget", "50", "--out", str(tmp_path)]
    arguments += ["--work", str(tmp_path), "--checkpoint", str(tiny_checkpoint)]
    monkeypatch.setattr("sys.argv", arguments)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert gpu_check().main() == 1
    assert "no time left for memory-bf16\n" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.json"))
