"""The measurements that start processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from qwen3_tts_service.bench import placement, serve_suite
from qwen3_tts_service.bench.plan import Plan
from qwen3_tts_service.bench.statistics import Spread

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_clients_of_the_real_server_hear_the_length_that_was_asked_for(plan: Plan) -> None:
    # The service takes no smaller slots.
    report = serve_suite.run(replace(plan, slot_positions=256))
    [table] = report.tables
    assert [(row["who"], row["clients"]) for row in table.rows] == [("ours", 1), ("ours", 2), ("upstream", 1)]
    for row in table.rows:
        first, whole = row["first_ms"], row["whole_s"]
        assert isinstance(first, Spread)
        assert isinstance(whole, Spread)
        assert first.count == row["clients"]
        assert first.median <= 1e3 * whole.median
    ours, _, theirs = table.rows
    assert isinstance(ours["gap_ms"], Spread)
    assert theirs["gap_ms"] is None
    assert theirs["sooner"] == 1.0


def test_every_placement_of_this_host_is_tried(plan: Plan) -> None:
    report = placement.run(replace(plan, frames=4))
    [table] = report.tables
    assert len(table.rows) == 4
    assert [row["failure"] for row in table.rows] == [""] * 4
    assert report.facts["settings"][0] == "QWEN3_TTS_DEVICE=cpu"


def test_the_gpu_script_runs_its_parity_part(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """On the CPU, to try the script: what it judges is judged the same way."""
    settings = {"frames": 5, "batches": [2], "cpu_threads": 1}
    arguments = ["--part", "parity", "--checkpoint", str(tiny_checkpoint), "--out", str(tmp_path)]
    arguments += ["--device", "cpu", "--settings", json.dumps(settings)]
    done = subprocess.run(
        [sys.executable, "tools/gpu_check.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "TORCHDYNAMO_DISABLE": "1", "PYTHONPATH": "service"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "all held" in done.stdout
    report = json.loads((tmp_path / "parity-parity.json").read_text())
    assert report["facts"]["passed"] is True
    assert len(report["provenance"]["source_hash"]) == 16
    assert {row["dtype"] for row in report["tables"][0]["rows"]} == {"fp32", "bf16"}
