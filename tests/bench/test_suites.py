"""Each suite on the tiny checkpoint: its figures fit together."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from qwen3_tts_service.bench import codec_suite, engine_suite, original, soak
from qwen3_tts_service.bench.plan import Plan
from qwen3_tts_service.bench.report import Report, Table
from qwen3_tts_service.bench.statistics import Spread
from qwen3_tts_service.cli import group
from qwen3_tts_service.codec.stream import Decode
from qwen3_tts_service.errors import ConfigurationError
from qwen3_tts_service.pipeline import Timeline


def table(report: Report, name: str) -> Table:
    [found] = [table for table in report.tables if table.name == name]
    return found


def median(value: Any) -> float:
    assert isinstance(value, Spread)
    return value.median


def test_frames_are_compared_with_upstream_and_with_the_floor(plan: Plan) -> None:
    report = engine_suite.run(plan)
    rows = table(report, "frames").rows
    assert [row["batch"] for row in rows] == [1, 2]
    for row in rows:
        ours, theirs = median(row["ms"]), median(row["upstream_ms"])
        assert row["ratio"] == pytest.approx(theirs / ours)
        assert row["compute_audio"] == pytest.approx(ours / 80 / int(str(row["batch"])))
        assert row["of_floor"] == pytest.approx(ours / float(str(row["floor_ms"])))
        assert isinstance(row["ms"], Spread)
        assert row["ms"].count == plan.frames
    program = table(report, "program").rows
    assert [row["batch"] for row in program] == [1, 2]
    # Little more is read than the geometry asks for; a CPU has no kernels to count.
    assert all(1.0 <= float(str(row["ratio"])) <= 1.05 for row in program)
    assert all(row["kernels"] is None for row in program)
    # Texts have whole words, so that the last position is met by a word or two.
    assert re.match(r"Frames up to 9[0-6] of 128 positions", table(report, "frames").title)
    json.dumps(report.as_json())


def test_positions_beyond_the_slot_are_refused(plan: Plan) -> None:
    with pytest.raises(ConfigurationError, match="200 positions do not fit into slots of 128"):
        engine_suite.run(replace(plan, positions=200))


def test_one_sentence_three_ways_has_the_same_length(plan: Plan) -> None:
    report = original.run(plan)
    rows = table(report, "original").rows
    assert [str(row["way"]).split(":")[0] for row in rows] == ["plain upstream", "original recipe", "ours"]
    # Nobody ended by himself.
    assert [row["frames"] for row in rows] == [plan.frames] * 3
    assert rows[0]["ratio"] == 1.0
    for row in rows[:2]:
        assert median(row["first_ms"]) == pytest.approx(1e3 * median(row["whole_s"]))
    assert median(rows[2]["first_ms"]) < 1e3 * median(rows[2]["whole_s"])
    decodes = table(report, "timeline").rows
    decoded, now = 0, 0.0
    for row in decodes:
        began, ended = float(str(row["began_ms"])), float(str(row["ended_ms"]))
        assert now < began < ended <= 1e3 * median(rows[2]["whole_s"])
        decoded, now = decoded + int(str(row["frames"])), ended
        # Nothing is decoded before it is made.
        assert decoded <= int(str(row["made"])) <= plan.frames
    assert decoded == plan.frames
    assert int(str(decodes[0]["made"])) < plan.frames, "the first decode did not wait for the last frame"


def test_frames_and_decodes_take_turns_only_where_both_are_on_the_cpu() -> None:
    assert "by turns on the same cores" in original.how_both_run("cpu", "cpu")
    for device, codec_device in (("cuda", "cpu"), ("cuda", "gpu")):
        assert "at the same time" in original.how_both_run(device, codec_device)  # type: ignore[arg-type]


def test_a_long_timeline_is_shown_by_its_ends() -> None:
    line = Timeline(admitted=100.0, frames=[100.0 + number for number in range(1, 21)])
    # The last one begins when all frames are there.
    line.decodes = [Decode(when + 0.25, when + 0.5, 1, 1) for when in line.frames]
    shown = original.timeline_table(original.Spoken(2.0, 21.0, 20.0, 5.0, 20, sent=99.0, timeline=line))
    assert [row["made"] for row in shown.rows] == [*range(1, 9), *range(13, 21)]
    assert shown.rows[0] == {"began_ms": 2250.0, "ended_ms": 2500.0, "frames": 1, "made": 1}
    assert "95% of the decoding was done before the last frame was made" in shown.notes[0]
    assert shown.notes[1] == "4 decodes in the middle are left out."
    assert "the last one made after 21,000 ms, all heard after 21,000 ms" in shown.title


def test_soaking_counts_requests_and_memory(plan: Plan) -> None:
    report = soak.run(replace(plan, soak_minutes=0.05, frames=3))
    assert report.facts["requests"] >= 2
    assert report.facts["failures"] == []
    [growth] = table(report, "growth").rows
    first, last = float(str(growth["first_mib"])), float(str(growth["last_mib"]))
    assert first > 100
    assert float(str(growth["mib_an_hour"])) == pytest.approx((last - first) / (0.9 * 0.05 / 60), rel=0.2)


def test_the_codecs_ways_give_the_same_sound_and_the_command_writes_it_all(
    plan: Plan, tmp_path: Path
) -> None:
    out = tmp_path / "codec.json"
    arguments = ["bench", str(plan.checkpoint), "--suite", "codec", "--device", "cpu", "--cpu-threads", "1"]
    arguments += ["--frames", "4", "--repeats", "1", "--batch", "1", "--batch", "3", "--json", str(out)]
    result = CliRunner().invoke(group, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "Decode 4 frames (0.32 s of sound), one stream" in result.stdout
    assert "\x1b" not in result.stdout
    content = json.loads(out.read_text())
    decode, batches = content["tables"]
    by_way = {(row["way"], row["dtype"]): row for row in decode["rows"]}
    reference = by_way["upstream, whole", "fp32"]
    assert reference["ratio"] == 1.0
    assert reference["snr_db"] is None
    ours = {key: row for key, row in by_way.items() if key[0].startswith("ours")}
    # A processor that only imitates bfloat16 is said to, and not kept busy with it.
    left_out = content["facts"]["left_out"]
    assert left_out == {} or "no bfloat16" in left_out["bf16"]
    assert len(ours) == (3 if left_out else 6)
    for (_, dtype), row in ours.items():
        assert row["snr_db"] > (80 if dtype == "fp32" else 15)
        counterpart = by_way[row["against"], "fp32"]
        # One round: the median of the ratios is the ratio of the medians.
        assert row["ratio"] == pytest.approx(counterpart["seconds"]["median"] / row["seconds"]["median"])
        assert row["first_ms"]["median"] <= 1e3 * row["seconds"]["median"]
    assert [row["batch"] for row in batches["rows"]] == [1, 3]


@pytest.mark.parametrize(
    "arguments", [[], ["--suite", "codec", "--placement"], ["--original", "--soak", "1"]], ids=str
)
def test_exactly_one_measurement_is_named(tmp_path: Path, arguments: list[str]) -> None:
    result = CliRunner().invoke(group, ["bench", str(tmp_path), *arguments])
    assert result.exit_code == 2
    assert "name one of --suite, --placement, --original and --soak" in result.stderr


@pytest.mark.parametrize("frames", [1, 2, 7, 31, 32, 112])
def test_chunks_add_up_and_grow(frames: int) -> None:
    grown = list(codec_suite.growing(frames))
    assert sum(grown) == frames
    assert grown[:-1] == [1, 2, 4, 8, *[16] * 10][: len(grown) - 1]
    assert sum(codec_suite.even(frames, 4)) == frames
    assert max(codec_suite.even(frames, 4)) <= 4


def test_noise_is_measured_in_db() -> None:
    sound = torch.sin(torch.arange(1000.0))
    assert codec_suite.signal_to_noise_db(sound, sound) == float("inf")
    assert codec_suite.signal_to_noise_db(sound, 1.1 * sound) == pytest.approx(20, abs=0.01)
