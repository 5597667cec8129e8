"""How many requests a second are served well: soon heard, and never late.

First as many clients as are served at a time ask again and again, which shows how many requests a second the host
serves at most. Then requests come at random times, at growing parts of that rate, whether the ones before were
answered or not (open loop). A rate is served well when 95 of 100 requests are heard within :data:`FIRST_SOUND_S`, no
client's playback stands still, and nobody is refused.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from ..checkpoints.load import inspect
from ..errors import EngineError
from ..speech.request import FRAMES_A_SECOND
from . import overload, provenance
from .overload import Heard
from .plan import Plan
from .report import Cell, Column, Report, Table
from .serve_suite import request_body, settings
from .server import serving
from .statistics import percentile

#: How soon 95 of 100 requests must be heard, seconds.
FIRST_SOUND_S = 0.1
#: Of the most requests a second.
_PARTS = (0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def run(plan: Plan) -> Report:
    """Measure a server of its own, each rate for ``plan.rate_s`` seconds; raises as :func:`.serve_suite.run`."""
    checkpoint = inspect(plan.checkpoint)
    content = json.dumps(request_body(checkpoint)).encode()
    facts: dict[str, Any] = {
        "checkpoint": {"size": checkpoint.model_size, "synthetic": checkpoint.synthetic},
        "device": plan.device,
        "codec_device": plan.codec_device,
        "codec_dtype": plan.codec_dtype,
        "slots": max(plan.batches),
        "seconds_a_rate": plan.rate_s,
    }
    rows: list[dict[str, Cell]] = []

    def report() -> Report:
        return Report("rate", provenance.collect(), facts, [_table(plan, rows)])

    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        overload.write_keys(keys)
        plan.say("starting the server")
        own = settings(plan, "frames", slots=max(plan.batches))
        with serving(Path(folder), own | {"queue_size": overload.CLIENTS, "api_keys_file": keys}) as server:
            plan.say("how many requests a second it serves at most")
            full = overload.closed_loop(server.port, content, plan.rate_s)
            most = full.ends["200"] / (full.until - full.since)
            if not most:
                raise EngineError(f"the server serves nothing: {dict(full.ends)}")
            facts |= {"most_requests_a_second": most, "most_sound_s_a_second": full.rate, "served_well": 0.0}
            for part in _PARTS:
                heard = overload.open_loop(server.port, content, plan.rate_s, part * most)
                rows.append(_row(part * most, heard))
                plan.say(_table(plan, rows).line(rows[-1]))
                if rows[-1]["well"] != "yes":
                    break
                facts["served_well"] = part * most
                plan.keep(report())
    return report()


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


def _table(plan: Plan, rows: list[dict[str, Cell]]) -> Table:
    return Table(
        name="rate",
        title=f"Requests of {plan.frames / FRAMES_A_SECOND:.2f} s of sound at random times",
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
