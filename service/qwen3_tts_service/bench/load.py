"""Does the frame loop wait for Python? The gaps between frames with 64 streaming clients, against nobody else.

First in a process of its own in which nothing else runs, then in the server, which also answers clients, cuts
texts of 50,000 characters and is asked for ``/metrics``. Both must be the same work: where the codec is slower than
the frames, slots pause, so that batches are smaller and streams not as long. What the server is compared with are
therefore as many frames alone of each batch size as it had, over as many frames of a stream as it spoke. Gaps count
from when every client has its first sound: the reading of prompts has a measurement of its own (``arrivals.py``).
"""

from __future__ import annotations

import math
import multiprocessing
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from ..checkpoints.load import Checkpoint, inspect, load
from ..engine.budget import frame_budget
from ..engine.frame import FrameModel
from ..engine.graphs import FrameRunner
from ..engine.prompt import Prompt, PromptBuilder
from ..errors import EngineError
from ..native import default_directory
from ..speech.request import FRAMES_A_SECOND
from . import observation, provenance
from .frame_timing import time_frames
from .observation import go_on
from .plan import SENTENCE, Plan
from .report import Cell, Column, Report, Table
from .requests import spoken_by
from .serve_suite import disturbed, request_body, speaking_server
from .server import Ear, Heard, Server
from .statistics import Spread, percentile, spread

#: Of the time that a stream of the plan's length takes alone: the first to end is not among what is counted.
_OF_A_STREAM = 0.7
#: Every client must have its first sound by then.
_FIRST_SOUND_S = 60.0
_LOOK_S = 0.01
#: The goal for the 95th percentile, times that of frames alone.
_GOAL = 1.2


@dataclass(frozen=True)
class Alone:
    """A text that may become the plan's frames, and seconds between two frames, in order, by the voices."""

    text: str
    seconds: Mapping[int, Sequence[float]]

    def like(self, gaps: observation.FrameGaps, frames: int) -> Spread:
        """As many gaps of each batch size as ``gaps`` has, of streams that are up to ``frames`` frames long.

        A batch size that was not measured counts as the next smaller one.
        """
        pooled: list[float] = []
        for rows, seconds in gaps.by_rows.items():
            nearest = max((size for size in self.seconds if size <= rows), default=min(self.seconds))
            sample, count = sorted(self.seconds[nearest][:frames]), len(seconds)
            pooled += [percentile(sample, (index + 0.5) / count) for index in range(count)]
        return spread(pooled)


@dataclass(frozen=True)
class _Window:
    """What was heard, and the gaps of frames while all clients listened; at its end ``waiting`` frames of all
    streams were made and not yet sound.
    """

    heard: list[Heard]
    gaps: observation.FrameGaps | None
    waiting: int


def run(plan: Plan) -> Report:
    """Measure with as many clients as the largest of ``plan.clients``, each with a slot of its own."""
    checkpoint = inspect(plan.checkpoint)
    clients = max(plan.clients)
    rows: list[dict[str, Cell]] = []
    facts: dict[str, Any] = {
        "checkpoint": provenance.of_checkpoint(checkpoint),
        "device": plan.device,
        "codec_device": plan.codec_device,
        "slots": clients,
        "goal_times_alone": _GOAL,
    }

    def told(row: dict[str, Cell]) -> Report:
        rows.append(row)
        report = Report("load", provenance.collect(), facts, [_table(plan, rows)])
        plan.say(report.tables[0].line(row))
        plan.keep(report)
        return report

    plan.say(f"frames of {clients} voices in a process of their own")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        lone = replace(plan, say=_ignore, keep=_ignore)
        idle = pool.submit(alone, lone, clients).result()
    body = request_body(checkpoint, idle.text)
    full = spread(idle.seconds[clients])
    told({"who": f"{clients} voices alone", "rows": clients, **_gaps(idle.seconds[clients], full)})
    window_s = _OF_A_STREAM * plan.frames * full.median
    plan.say(f"starting the server with {clients} slots")
    started = time.monotonic()
    with speaking_server(plan, "frames", slots=clients) as server:
        facts["ready_after_s"] = time.monotonic() - started
        _listen(server, body, clients, 0.1 * window_s)
        told(_served("clients", _listen(server, body, clients, window_s), idle))
        noisy = _listen(server, body, clients, window_s, beside=disturbed(server, body))
        return told(_served("clients, long texts, /metrics", noisy, idle))


def alone(plan: Plan, voices: int) -> Alone:
    """Frames of ``voices`` voices, of half and of a quarter of them. Nothing else happens in the process."""
    model = load(plan.checkpoint, device=plan.device, dtype=plan.dtype, cpu_threads=plan.cpu_threads)
    text, prompt = _long_enough(PromptBuilder(model), model.checkpoint, plan.frames)
    frames = FrameModel(
        model,
        slots=voices,
        positions=plan.slot_positions,
        release_upstream=True,
        kernels=default_directory(),
    )
    go_on(frames)
    runner = FrameRunner(frames)
    return Alone(
        text,
        {
            size: time_frames(runner, prompt, batch=size, frames=plan.frames).seconds
            for size in runner.batch_sizes
            if 4 * size >= voices
        },
    )


def _ignore(_what: object) -> None:
    return None


def _long_enough(builder: PromptBuilder, checkpoint: Checkpoint, frames: int) -> tuple[str, Prompt]:
    """The shortest text that the service lets become so many frames, in sentences."""
    text = SENTENCE
    while True:
        # Fed as the service feeds it: word by word where a voice is cloned.
        prompt = builder.build(replace(spoken_by(checkpoint, text), text_feeding=None))
        if frame_budget(prompt.text_tokens, cap=frames) == frames:
            return text, prompt
        text += " " + SENTENCE


def _listen(
    server: Server,
    body: dict[str, Any],
    clients: int,
    seconds: float,
    *,
    beside: AbstractContextManager[None] | None = None,
) -> _Window:
    """``clients`` clients at once; all leave ``seconds`` after the last had its first sound.

    ``beside`` is entered then: before, it could take a place from one of them, whose first sound would come when
    the others have ended. Raises EngineError when one has none after a minute, or when one ended by itself.
    """
    ears = [Ear() for _ in range(clients)]
    with ThreadPoolExecutor(clients) as pool:
        listening = [
            pool.submit(server.listen, body | {"seed": number}, ear) for number, ear in enumerate(ears)
        ]
        try:
            deadline = time.monotonic() + _FIRST_SOUND_S
            while any(ear.first_at is None for ear in ears):
                failed = next((one.exception() for one in listening if one.done() and one.exception()), None)
                if failed or time.monotonic() > deadline:
                    silent = sum(ear.first_at is None for ear in ears)
                    raise EngineError(f"{silent} of {clients} clients hear nothing") from failed
                time.sleep(_LOOK_S)
            since = max(ear.first_at or 0.0 for ear in ears)
            with beside or nullcontext():
                time.sleep(seconds)
                until = time.monotonic()
                waiting = _waiting(server)
                over = [one for one in listening if one.done()]
            if over:
                failed = next((one.exception() for one in over if one.exception()), None)
                raise EngineError(
                    f"{len(over)} of {clients} streams ended before they were left: "
                    f"{failed or 'measure with more --frames'}"
                ) from failed
        finally:
            for ear in ears:
                ear.leaves.set()
        heard = [one.result() for one in listening]
    return _Window(heard, observation.gaps(server.frame_times, since=since, until=until), waiting)


def _waiting(server: Server) -> int:
    """Frames that wait for the codec. Raises EngineError when the server does not tell."""
    _, metrics = server.get("/metrics")
    found = re.search(rb"^qwen3_tts_codec_backlog_frames(?:{.*})? (\S+)$", metrics, re.MULTILINE)
    if found is None:
        raise EngineError("the server's /metrics has no qwen3_tts_codec_backlog_frames")
    return int(float(found[1]))


def _served(who: str, window: _Window, idle: Alone) -> dict[str, Cell]:
    if window.gaps is None:
        raise EngineError("the server's frames left no times: its engine process is not observed")
    frames = sum(heard.frames for heard in window.heard)
    # Where the codec lags, streams are longer than what was heard of them, and so are what their frames read.
    like = idle.like(window.gaps, math.ceil((frames + window.waiting) / len(window.heard)))
    return {
        "who": who,
        "rows": window.gaps.rows,
        **_gaps(window.gaps.seconds, like),
        "first_ms": spread([heard.first_s for heard in window.heard]).scaled(1e3),
        "audio_s_a_second": frames / FRAMES_A_SECOND / max(heard.whole_s for heard in window.heard),
    }


def _gaps(seconds: Sequence[float], like: Spread) -> dict[str, Cell]:
    gaps = spread(seconds)
    return {
        "gap_ms": gaps.scaled(1e3),
        "p95_ms": gaps.p95 * 1e3,
        "alone_ms": like.p95 * 1e3,
        "ratio": gaps.p95 / like.p95,
        "worst_ms": max(seconds) * 1e3,
        "frames": len(seconds),
    }


def _table(plan: Plan, rows: list[dict[str, Cell]]) -> Table:
    return Table(
        name="load",
        title=f"Gaps between frames, {max(plan.clients)} voices, {plan.codec}",
        columns=[
            Column("who", "beside the frames"),
            Column("gap_ms", "gap", "ms"),
            Column("p95_ms", "95th percentile", "ms"),
            Column("alone_ms", "that of the same batches alone", "ms"),
            Column("ratio", "times alone"),
            Column("worst_ms", "worst", "ms", 1),
            Column("frames", "gaps"),
            Column("rows", "rows of a batch", digits=1),
            Column("first_ms", "first sound", "ms", 1),
            Column("audio_s_a_second", "sound a second", "s", 1),
        ],
        rows=rows,
        notes=[
            f"At most {_GOAL:g} times alone is the goal. Streams are {plan.frames} frames long and are listened to "
            f"for {_OF_A_STREAM:.0%} of what that takes alone, from when every client has its first sound. Rows: those "
            "launched, of slots that pause too. The same batches alone: as many of each size, over as many frames.",
        ],
    )
