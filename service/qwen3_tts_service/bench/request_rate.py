"""How many requests a second are served well: soon heard, and never late.

First as many clients as are served at a time ask again and again, which shows how many requests a second the host
serves at most. Then requests come at random times, at growing parts of that rate, whether the ones before were
answered or not (open loop). A rate is served well when 95 of 100 requests are heard within :data:`FIRST_SOUND_S`, no
client's playback stands still, and nobody is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ..checkpoints.load import inspect
from ..errors import EngineError
from ..speech.request import FRAMES_A_SECOND
from . import overload, provenance
from .overload import Heard
from .plan import Plan
from .report import Cell, Column, Report, Table
from .serve_suite import request_body
from .statistics import percentile

#: How soon 95 of 100 requests must be heard, seconds.
FIRST_SOUND_S = 0.1
#: Of the most requests a second.
_PARTS = (0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def run(plan: Plan) -> Report:
    """Measure a server of its own, each rate for ``plan.rate_s`` seconds; raises as :func:`.serve_suite.run`."""
    checkpoint = inspect(plan.checkpoint)
    facts: dict[str, Any] = {
        "checkpoint": provenance.of_checkpoint(checkpoint),
        "device": plan.device,
        "codec_device": plan.codec_device,
        "codec_dtype": plan.codec_dtype,
        "slots": max(plan.batches),
        "seconds_a_rate": plan.rate_s,
    }
    slots = max(plan.batches)
    with overload.keyed_server(plan, slots=slots, queue_size=overload.CLIENTS) as server:
        plan.say("how many requests a second it serves at most")
        most, rows = measure(server.port, request_body(checkpoint), plan.rate_s, plan.say)
    well = [row["rate"] for row in rows if row["well"] == "yes"]
    facts |= {"most_requests_a_second": most, "served_well": well[-1] if well else 0.0}
    title = f"Requests of {plan.frames / FRAMES_A_SECOND:.2f} s of sound at random times, {plan.codec}"
    return Report("rate", provenance.collect(), facts, [_table(title, rows)])


def measure(
    port: int, body: Mapping[str, Any], seconds: float, say: Callable[[str], None]
) -> tuple[float, list[dict[str, Cell]]]:
    """Requests a second that the server on ``port`` serves at most, and a row for each rate up to one too high.

    Its keys are :func:`.overload.write_keys`'. Raises EngineError when it serves nothing.
    """
    content = json.dumps(dict(body)).encode()
    full = overload.closed_loop(port, content, seconds)
    most = full.ends["200"] / (full.until - full.since)
    if not most:
        raise EngineError(f"the server serves nothing: {dict(full.ends)}")
    rows: list[dict[str, Cell]] = []
    for part in _PARTS:
        rows.append(_row(part * most, overload.open_loop(port, content, seconds, part * most)))
        say(_table("", rows).line(rows[-1]))
        if rows[-1]["well"] != "yes":
            break
    return most, rows


def _row(rate: float, heard: Heard) -> dict[str, Cell]:
    shares = {
        f"p{share}": percentile(heard.first_s, share / 100) if heard.first_s else float("inf")
        for share in (50, 95, 99)
    }
    others = sum(count for end, count in heard.ends.items() if end != "200")
    well = shares["p95"] <= FIRST_SOUND_S and not heard.ran_dry and not others
    return {
        "rate": rate,
        "served": heard.ends["200"],
        "others": others,
        "sound": heard.rate,
        "dry": heard.ran_dry,
        **{name: 1e3 * seconds for name, seconds in shares.items()},
        "well": "yes" if well else "NO",
    }


def _table(title: str, rows: list[dict[str, Cell]]) -> Table:
    return Table(
        name="rate",
        title=title,
        columns=[
            Column("rate", "requests a second", digits=1),
            Column("served", "served"),
            Column("others", "other ends"),
            Column("sound", "sound a second", "s", 1),
            Column("dry", "playback stood still"),
            *(Column(f"p{share}", f"first sound p{share}", "ms", 0) for share in (50, 95, 99)),
            Column("well", "served well"),
        ],
        rows=rows,
        notes=[
            "First sound: from when the request was due to 1,920 samples read. Served well: 95 of 100 within "
            f"{1e3 * FIRST_SOUND_S:.0f} ms, no playback that began with the first sound stood still, nobody refused.",
        ],
    )
