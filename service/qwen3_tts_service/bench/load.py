"""Does the frame loop wait for Python? The gaps between frames with 64 streaming clients, against nobody else.

The same number of voices speaks in both, so that a frame is the same work: first in a process of its own in
which nothing else runs, then in the server, whose process also answers clients, splits texts of 50,000
characters and is asked for ``/metrics``.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from ..checkpoints.load import inspect, load
from ..engine.frame import FrameModel
from ..engine.graphs import FrameRunner
from ..engine.prompt import PromptBuilder
from ..speech.request import FRAMES_A_SECOND
from . import provenance
from .engine_suite import time_frames
from .observation import go_on
from .plan import SENTENCE, Plan
from .report import Cell, Column, Report, Table
from .requests import spoken_by
from .serve_suite import Listening, disturbed, listen, request_body, settings
from .server import serving
from .statistics import Spread, spread


def run(plan: Plan) -> Report:
    """Measure with as many clients as the largest of ``plan.clients``, each with a slot of its own."""
    checkpoint = inspect(plan.checkpoint)
    clients = max(plan.clients)
    body = request_body(checkpoint)
    plan.say(f"frames of {clients} voices in a process of their own")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        idle = pool.submit(alone, replace(plan, say=_ignore), clients).result()
    rows = [_row("frames alone", idle, None, idle)]
    with tempfile.TemporaryDirectory() as folder:
        plan.say(f"starting the server with {clients} slots")
        with serving(Path(folder), settings(plan, "frames", slots=clients)) as server:
            listen(server, body, clients=clients, requests=1)
            plan.say(f"{clients} streaming clients")
            rows.append(
                _served("clients", listen(server, body, clients=clients, requests=plan.repeats), idle)
            )
            plan.say(f"{clients} streaming clients, long texts and scrapes")
            with disturbed(server, body):
                noisy = listen(server, body, clients=clients, requests=plan.repeats)
            rows.append(_served("clients, long texts, /metrics", noisy, idle))
    facts = {
        "checkpoint": {"size": checkpoint.model_size, "synthetic": checkpoint.synthetic},
        "device": plan.device,
        "codec_device": plan.codec_device,
        "slots": clients,
    }
    return Report("load", provenance.collect(), facts, [_table(plan, rows)])


def alone(plan: Plan, voices: int) -> Spread:
    """Seconds between two frames of ``voices`` voices while nothing else happens in the process."""
    model = load(plan.checkpoint, device=plan.device, dtype=plan.dtype, cpu_threads=plan.cpu_threads)
    prompt = PromptBuilder(model).build(spoken_by(model.checkpoint, SENTENCE))
    frames = FrameModel(model, slots=voices, positions=plan.slot_positions, release_upstream=True)
    go_on(frames)
    return time_frames(FrameRunner(frames), prompt, batch=voices, frames=plan.frames).gaps


def _ignore(_line: str) -> None:
    return None


def _served(who: str, listening: Listening, idle: Spread) -> dict[str, Cell]:
    assert listening.gaps is not None
    return _row(who, listening.gaps.gaps, listening, idle)


def _row(who: str, gaps: Spread, listening: Listening | None, idle: Spread) -> dict[str, Cell]:
    row: dict[str, Cell] = {
        "who": who,
        "gap_ms": gaps.scaled(1e3),
        "p95_ms": gaps.p95 * 1e3,
        "ratio": gaps.p95 / idle.p95,
        "frames": gaps.count,
    }
    if listening is not None and listening.gaps is not None:
        sound_s = sum(heard.frames for heard in listening.heard) / FRAMES_A_SECOND
        row |= {
            "worst_ms": listening.gaps.worst * 1e3,
            "rows": listening.gaps.rows,
            "first_ms": spread([heard.first_s for heard in listening.heard]).scaled(1e3),
            "audio_s_a_second": sound_s / listening.seconds,
        }
    return row


def _table(plan: Plan, rows: list[dict[str, Cell]]) -> Table:
    return Table(
        name="load",
        title=f"Gaps between frames, {max(plan.clients)} voices at a time, {plan.frames} frames each",
        columns=[
            Column("who", "beside the frames"),
            Column("gap_ms", "gap", "ms"),
            Column("p95_ms", "95th percentile", "ms"),
            Column("ratio", "times alone"),
            Column("worst_ms", "worst", "ms", 1),
            Column("frames", "gaps"),
            Column("rows", "mean rows", digits=1),
            Column("first_ms", "first sound", "ms", 1),
            Column("audio_s_a_second", "sound a second", "s", 1),
        ],
        rows=rows,
        notes=["At most 1.2 times alone is the goal; the server's gaps include the reading of prompts."],
    )
