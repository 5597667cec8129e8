"""How many requests a second are served well, on an engine that speaks five times as fast as it is listened to."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen3_tts_service.bench import overload, request_rate
from qwen3_tts_service.bench.overload import Heard
from server_process import STEERED, serving
from steered_engine import PACED


@pytest.mark.measuring
@pytest.mark.slow
def test_rates_grow_until_one_is_too_high(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    overload.write_keys(keys)
    body = {"input": PACED, "voice": "ryan", "response_format": "pcm"}
    own = {"slots": 4, "queue_size": overload.CLIENTS, "api_keys_file": keys}
    with serving(tmp_path / "log", {"STEERED_SLOTS": "4"}, program=STEERED, model=tmp_path, **own) as server:
        server.wait_until_ready()
        most, rows = request_rate.measure(server.port, body, 8.0, print)
    assert rows[0]["rate"] == pytest.approx(most / 4)
    assert rows[0]["others"] == 0
    assert rows[0]["dry"] == 0
    # Only the last may be too high, and nothing is asked after it.
    assert [row["well"] for row in rows[:-1]] == ["yes"] * (len(rows) - 1)


def heard(first_s: list[float], *, ends: dict[str, int] | None = None, ran_dry: int = 0) -> Heard:
    result = Heard(since=0.0, until=10.0)
    result.first_s += first_s
    result.ends.update(ends or {"200": len(first_s)})
    result.ran_dry = ran_dry
    return result


@pytest.mark.parametrize(
    ("what", "well"),
    [
        (heard([0.05] * 96 + [0.5] * 4), "yes"),
        (heard([0.05] * 90 + [0.5] * 10), "NO"),
        (heard([0.05] * 100, ran_dry=1), "NO"),
        (heard([0.05] * 100, ends={"200": 100, "429": 1}), "NO"),
        (heard([]), "NO"),
    ],
)
def test_served_well(what: Heard, well: str) -> None:
    assert request_rate._row(3.0, what)["well"] == well
