"""Twice as much as can be served: the server keeps what it can, shares it out, and says 429 to the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen3_tts_service.bench import overload
from qwen3_tts_service.bench.overload import KEYS, Figures, Heard
from server_process import STEERED, serving
from steered_engine import PACED

SECONDS = 20.0


@pytest.mark.measuring
@pytest.mark.slow
def test_what_is_served_is_the_capacity_and_every_key_has_its_share(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    overload.write_keys(keys)
    body = {"input": PACED, "voice": "ryan", "response_format": "pcm"}
    with serving(
        tmp_path / "log",
        {"STEERED_SLOTS": "4"},
        program=STEERED,
        model=tmp_path,
        slots=4,
        api_keys_file=keys,
    ) as server:
        server.wait_until_ready()
        figures = overload.measure(server.port, server.process.pid, body, SECONDS, print)
    print(overload._table(figures).rows)
    # Four slots of five seconds of sound a second each.
    assert 10 < figures.capacity <= 21
    assert figures.errors == {}
    assert figures.heard.ends["429"] > figures.heard.ends["200"] / 2
    assert figures.served > 0.9
    for key in KEYS:
        assert figures.share(key) == pytest.approx(1, abs=0.1)
    # What a run of seconds can tell; minutes are asked for less than 1.
    assert figures.growth_mib_a_minute < 30


def test_the_figures_are_those_of_what_was_heard() -> None:
    heard = Heard(since=10.0, until=20.0)
    heard.sound_s |= {"first": 30.0, "second": 40.0, "third": 20.0}
    heard.ends.update({"200": 45, "429": 50, "503": 2, "ConnectionResetError": 1})
    memory = [(10.0 + second, (100 << 20) + second * (1 << 20)) for second in range(10)]
    figures = Figures(10.0, 9.0, heard, memory)
    assert figures.served == pytest.approx(0.9)
    assert [figures.share(key) for key in KEYS] == pytest.approx([1.0, 4 / 3, 2 / 3])
    assert figures.errors == {"503": 2, "ConnectionResetError": 1}
    assert figures.growth_mib_a_minute == pytest.approx(60)
