"""The measurements that start processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwen3_tts_service.bench import (
    arrivals,
    engine_suite,
    load,
    memory,
    original,
    placement,
    serve_suite,
    soak,
)
from qwen3_tts_service.bench.plan import Plan
from qwen3_tts_service.bench.report import Report
from qwen3_tts_service.bench.server import Ear, Heard, Server
from qwen3_tts_service.bench.statistics import Spread
from qwen3_tts_service.errors import EngineError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_clients_of_the_real_server_hear_the_length_that_was_asked_for(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Server, float | None]] = []
    listen = Server.listen

    def noted(server: Server, body: dict[str, Any], ear: Ear | None = None) -> Heard:
        asked.append((server, body.get("max_seconds")))
        return listen(server, body, ear)

    monkeypatch.setattr(Server, "listen", noted)
    # The service takes no smaller slots.
    report = serve_suite.run(replace(plan, slot_positions=256))
    table, after_start = report.tables
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

    # Nothing was warmed up before the first of them.
    ours_alone = [seconds for server, seconds in asked if server is asked[0][0]]
    assert ours_alone[:10] == [6 / 12.5] * 10
    assert set(ours_alone[10:]) == {None}
    assert [row["request"] for row in after_start.rows] == ["1", "2", "3 to 9", "10"]
    spreads = [(row["first_ms"], row["whole_s"]) for row in after_start.rows]
    for row, (first, whole) in zip(after_start.rows, spreads, strict=True):
        assert isinstance(first, Spread)
        assert isinstance(whole, Spread)
        assert first.count == whole.count == (7 if row["request"] == "3 to 9" else 1)
        tenth_first, tenth_whole = spreads[-1]
        assert isinstance(tenth_first, Spread)
        assert isinstance(tenth_whole, Spread)
        assert row["first_ratio"] == pytest.approx(first.median / tenth_first.median)
        assert row["whole_ratio"] == pytest.approx(whole.median / tenth_whole.median)
    assert f"ready in {report.facts['ready_after_s']:.1f} s: requests of 6 frames" in after_start.title


@pytest.mark.parametrize(
    ("fixture", "model_type"), [("base_checkpoint", "base"), ("design_checkpoint", "voice_design")]
)
def test_checkpoints_without_speakers_are_measured_too(
    fixture: str, model_type: str, plan: Plan, request: pytest.FixtureRequest
) -> None:
    """With a voice of nobody's that was saved before, or with a described one; the other engine speaks so too."""
    checkpoint = request.getfixturevalue(fixture)
    settings = replace(plan, checkpoint=checkpoint, batches=(1,), clients=(1,), frames=4, slot_positions=256)
    served, spoken, soaked = (
        serve_suite.run(settings),
        original.run(settings),
        soak.run(replace(settings, soak_minutes=0.02)),
    )
    clients, _ = served.tables
    assert [(row["who"], row["clients"]) for row in clients.rows] == [("ours", 1), ("upstream", 1)]
    assert [row["frames"] for row in spoken.tables[0].rows] == [4, 4, 4]
    assert (soaked.facts["failures"], soaked.facts["requests"] > 0) == ([], True)
    [frames] = [table for table in engine_suite.run(settings).tables if table.name == "frames"]
    assert [row["batch"] for row in frames.rows] == [1]
    assert {report.facts["checkpoint"]["type"] for report in (served, spoken, soaked)} == {model_type}


def test_every_placement_of_this_host_is_tried(plan: Plan) -> None:
    report = placement.run(replace(plan, dtype="auto", frames=4))
    [table] = report.tables
    assert len(table.rows) == 4
    assert [row["failure"] for row in table.rows] == [""] * 4
    assert report.facts["settings"][0] == "QWEN3_TTS_DEVICE=cpu"


def test_the_gpu_script_runs_its_parity_part(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """On the CPU, to try the script: what it judges is judged the same way."""
    settings = {"frames": 5, "batches": [2], "cpu_threads": 1}
    arguments = ["--part", "parity", "--checkpoint", str(tiny_checkpoint), "--out", str(tmp_path)]
    arguments += ["--work", str(tmp_path)]
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
    for name in ("fp32", "bf16", "codec", "sampler"):
        report = json.loads((tmp_path / f"parity-{name}.json").read_text())
        assert report["facts"]["passed"] is True
        assert "unfinished" not in report["facts"]
        assert len(report["provenance"]["source_hash"]) == 16


@pytest.mark.measuring
def test_arrivals_are_counted_beside_streams_that_run(base_checkpoint: Path, plan: Plan) -> None:
    kept: list[Report] = []
    settings = replace(plan, checkpoint=base_checkpoint, frames=40, batches=(2,), slot_positions=1024)
    report = arrivals.run(replace(settings, keep=kept.append))
    [table] = report.tables
    alone, beside = table.rows
    # From when both streams speak to when the first has ended.
    assert 2 * 30 <= int(str(alone["gaps"])) <= 2 * 39
    assert int(str(beside["arrivals"])) >= int(str(beside["long"])) >= 1
    assert beside["stretched_ms"] == pytest.approx(float(str(beside["p99_ms"])) - float(str(alone["p99_ms"])))
    # 60 s of a recording are 750 frames of the prompt.
    assert report.facts["prompt_positions"]["recording"] > 750
    assert kept[-1].tables == report.tables


def test_many_requests_leave_their_memory_looked_at(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of what is measured: each way is taken a hundred times, and no figure is judged here."""
    monkeypatch.setattr(memory, "_REQUESTS", 100)
    monkeypatch.setattr(memory, "_LOOKS", (0, 10, 50, 100))
    report = memory.run(replace(plan, frames=5, slot_positions=64))
    [table] = report.tables
    assert [row["requests"] for row in table.rows] == [0, 10, 50, 100]
    assert report.facts["failed"] == 0
    assert report.facts["frames"] == 5 * 100


@pytest.mark.measuring
def test_gaps_under_load_are_the_servers_and_count_when_all_listen(plan: Plan) -> None:
    report = load.run(replace(plan, frames=40, slot_positions=512))
    alone, clients, noisy = report.tables[0].rows
    assert alone["ratio"] == 1.0
    for row in (clients, noisy):
        # Nobody had ended by himself, or was still being admitted.
        assert float(str(row["rows"])) == pytest.approx(2, abs=0.2)
        assert float(str(row["ratio"])) == pytest.approx(
            float(str(row["p95_ms"])) / float(str(row["alone_ms"]))
        )


def test_streams_that_end_while_they_are_listened_to_are_no_load(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "_OF_A_STREAM", 5.0)
    with pytest.raises(
        EngineError, match="of 2 streams ended before they were left: measure with more --frames"
    ):
        load.run(replace(plan, frames=10, slot_positions=512))
