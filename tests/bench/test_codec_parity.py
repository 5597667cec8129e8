"""The judgement of the codec on a device, on the tiny codec: what is wrong somewhere is said to be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qwen3_tts_service.bench import codec_parity
from qwen3_tts_service.bench.plan import Plan
from qwen3_tts_service.codec.state import DecoderState
from qwen3_tts_service.codec.streaming import StreamingDecoder

pytestmark = pytest.mark.slow


@pytest.fixture
def positions(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Where the streams of each call stood."""
    seen: list[list[int]] = []
    decode = StreamingDecoder.decode

    def noted(self: StreamingDecoder, codes: Any, states: list[DecoderState]) -> Any:
        seen.append([int(state.position) for state in states])
        return decode(self, codes, states)

    monkeypatch.setattr(StreamingDecoder, "decode", noted)
    return seen


def judged(plan: Plan) -> tuple[dict[int, set[object]], bool]:
    """What the rows of each length say, and the whole."""
    report = codec_parity.run(replace(plan, frames=40))
    said: dict[int, set[object]] = {}
    for row in report.tables[0].rows:
        said.setdefault(int(str(row["frames"])), set()).add(row["passed"])
    return said, report.facts["passed"]


def test_streams_of_over_24_seconds_that_begin_apart_are_upstreams(
    plan: Plan, positions: list[list[int]]
) -> None:
    assert judged(plan) == ({40: {"yes"}, 330: {"yes"}}, True)
    assert any(len(call) == 3 and min(call) > 0 and max(call) - min(call) >= 100 for call in positions)
    assert max(map(max, positions)) >= 300


def test_a_context_that_is_lost_after_24_seconds_is_seen(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = StreamingDecoder.decode

    def forgets(self: StreamingDecoder, codes: Any, states: list[DecoderState]) -> Any:
        for state in states:
            if int(state.position) >= 300:
                state.reset()
        return decode(self, codes, states)

    monkeypatch.setattr(StreamingDecoder, "decode", forgets)
    assert judged(plan) == ({40: {"yes"}, 330: {"NO"}}, False)


def test_a_stream_at_its_neighbours_position_is_seen(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where they stand more than the short ones' length apart."""
    decode = StreamingDecoder.decode

    def confuses(self: StreamingDecoder, codes: Any, states: list[DecoderState]) -> Any:
        positions = [int(state.position) for state in states]
        if max(positions) - min(positions) > 40:
            for state in states:
                state.position.fill_(positions[0])
        return decode(self, codes, states)

    monkeypatch.setattr(StreamingDecoder, "decode", confuses)
    assert judged(plan) == ({40: {"yes"}, 330: {"NO"}}, False)
