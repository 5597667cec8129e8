"""How much longer does a listener wait for a frame while others arrive? The reading of prompts is in every gap.

Ten requests a second arrive beside running streams, and one in ten continues a recording of a minute, whose
750 frames are part of its prompt. The same streams run alone before, at the same positions.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checkpoints.load import load
from ..engine.frame import FrameModel
from ..engine.graphs import FrameRunner
from ..engine.prompt import PromptBuilder
from ..engine.scheduler import Finish, FrameRequest, Job, Scheduler
from ..errors import ConfigurationError, TTSError
from ..native import default_directory
from ..speech.request import Sampling, SpeechRequest, VoicePrompt
from . import provenance
from .observation import go_on
from .plan import SENTENCE, Plan
from .report import Cell, Column, Report, Table
from .requests import spoken_by
from .statistics import intervals, percentile, spread

_A_SECOND = 10.0
_LONG_EVERY = 10
_RECORDED_FRAMES = 750
_RECORDED_WORDS = 110
#: What an arrival speaks before it leaves again.
_ARRIVAL_FRAMES = 12
#: Largest stretch of the 99th percentile that is the goal, in milliseconds.
_GOAL_MS = 10.0
_WARM_FRAMES = 100


@dataclass
class _Stream:
    """Takes frames and notes when; ``ended`` when there are no more."""

    job: Job = field(init=False)
    submitted: float = field(default_factory=time.monotonic)
    times: list[float] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    error: TTSError | None = None

    def frame(self, codes: npt.NDArray[np.int32]) -> None:
        self.times.append(time.monotonic())

    def full(self) -> bool:
        return False

    def finished(self, reason: Finish | None, error: TTSError | None) -> None:
        self.error = error
        self.ended.set()


@dataclass(frozen=True)
class _Round:
    """Gaps of the running streams, and the seconds to the first frame of those that arrived."""

    gaps: list[float]
    plain_s: list[float]
    long_s: list[float]


def run(plan: Plan) -> Report:
    """Measure ``plan.repeats`` rounds of ``plan.frames`` frames of the largest of ``plan.batches`` streams.

    There are twice as many slots. Raises ConfigurationError for a checkpoint that does not clone.
    """
    model = load(plan.checkpoint, device=plan.device, dtype=plan.dtype, cpu_threads=plan.cpu_threads)
    if model.checkpoint.model_type != "base":
        raise ConfigurationError(
            f"arrivals that continue a recording need a base checkpoint, {plan.checkpoint} is a "
            f"{model.checkpoint.model_type} one",
            param="checkpoint",
        )
    streams = max(plan.batches)
    builder = PromptBuilder(model)
    usual = spoken_by(model.checkpoint, SENTENCE, max_frames=_ARRIVAL_FRAMES)
    longer = replace(usual, clone=_recorded(model.checkpoint.config), text_feeding=None)
    plan.say("compiling")
    frames = FrameModel(
        model,
        slots=2 * streams,
        positions=plan.slot_positions,
        weights=plan.weights,
        release_upstream=True,
        kernels=default_directory(),
    )
    go_on(frames)
    runner = FrameRunner(frames)
    facts: dict[str, Any] = {
        "checkpoint": provenance.of_checkpoint(model.checkpoint),
        "device": str(model.device),
        "weights": plan.weights,
        "prompt_positions": {
            "sentence": len(builder.build(usual).embeds),
            "recording": len(builder.build(longer).embeds),
        },
        "ways": {str(batch): way for batch, way in runner.ways().items()},
        "slower_ways_because": {str(batch): reason for batch, reason in runner.reasons().items()},
        "goal_ms": _GOAL_MS,
    }
    alone: list[_Round] = []
    beside: list[_Round] = []
    report = Report("arrivals", provenance.collect(), facts)
    # Whatever is used for the first time is in no figure.
    _round(builder, runner, replace(usual, max_frames=_WARM_FRAMES), (usual, longer), streams)
    for number in range(plan.repeats):
        spoken = replace(usual, max_frames=plan.frames)
        alone.append(_round(builder, runner, spoken, None, streams))
        beside.append(_round(builder, runner, spoken, (usual, longer), streams))
        rows = [_row(f"{streams} streams", alone, None), _row("and arrivals", beside, alone)]
        facts["stretched_ms"] = rows[1]["stretched_ms"]
        report = replace(report, tables=[_table(plan, rows)])
        plan.say(f"round {number + 1} of {plan.repeats}: {report.tables[0].line(rows[1])}")
        plan.keep(report)
    return report


def _recorded(config: dict[str, Any]) -> VoicePrompt:
    """A voice as it is kept: 60 s of codes and their words; nothing is encoded while others speak."""
    chance = np.random.default_rng(0)
    codes = chance.integers(0, 2048, (_RECORDED_FRAMES, 16))
    words = itertools.islice(itertools.cycle(SENTENCE.split()), _RECORDED_WORDS)
    embedding = chance.normal(0, 0.02, config["talker_config"]["hidden_size"]).astype(np.float32)
    return VoicePrompt(embedding, codes, " ".join(words))


def _round(
    builder: PromptBuilder,
    runner: Any,
    spoken: SpeechRequest,
    arriving: tuple[SpeechRequest, SpeechRequest] | None,
    streams: int,
) -> _Round:
    """``streams`` of ``spoken`` from their first common frame to the first one's end."""
    scheduler = Scheduler(runner, eos=-1, on_device_fault=lambda error: None, queue_size=1 << 20)
    scheduler.start()
    try:
        running = [_submit(builder, scheduler, spoken, seed) for seed in range(streams)]
        plain: list[_Stream] = []
        long: list[_Stream] = []
        if arriving:
            _arrive(builder, scheduler, arriving, running, plain, long)
        for stream in running:
            stream.ended.wait()
        # Where the device cannot keep up with them, many still wait.
        for stream in (*plain, *long):
            stream.job.cancel()
    finally:
        scheduler.stop(60.0)
    for stream in (*running, *plain, *long):
        if stream.error is not None:
            raise stream.error
    began, ended = max(stream.times[0] for stream in running), min(stream.times[-1] for stream in running)
    return _Round(
        [
            gap
            for stream in running
            for gap in intervals([moment for moment in stream.times if began <= moment <= ended])
        ],
        [stream.times[0] - stream.submitted for stream in plain if stream.times],
        [stream.times[0] - stream.submitted for stream in long if stream.times],
    )


def _submit(builder: PromptBuilder, scheduler: Scheduler, request: SpeechRequest, seed: int) -> _Stream:
    stream = _Stream()
    prompt = builder.build(request)
    frames = FrameRequest(prompt, Sampling(), seed, request.max_frames, float("inf"))
    stream.job = scheduler.submit(frames, stream)
    return stream


def _arrive(
    builder: PromptBuilder,
    scheduler: Scheduler,
    arriving: tuple[SpeechRequest, SpeechRequest],
    running: list[_Stream],
    plain: list[_Stream],
    long: list[_Stream],
) -> None:
    """Requests at random moments, ten a second on average, until the first of ``running`` ends."""
    chance = random.Random(0)  # noqa: S311 - moments of test requests
    at = time.monotonic()
    for number in itertools.count():
        at += chance.expovariate(_A_SECOND)
        while (left := at - time.monotonic()) > 0:
            if any(stream.ended.is_set() for stream in running):
                return
            time.sleep(min(left, 0.01))
        if any(stream.ended.is_set() for stream in running):
            return
        # The first one too, so that a short round has one.
        kind = long if number % _LONG_EVERY == 0 else plain
        kind.append(_submit(builder, scheduler, arriving[kind is long], number))


def _row(who: str, rounds: list[_Round], alone: list[_Round] | None) -> dict[str, Cell]:
    gaps = [gap for one in rounds for gap in one.gaps]
    row: dict[str, Cell] = {
        "who": who,
        "gap_ms": spread(gaps).scaled(1e3),
        "p99_ms": 1e3 * percentile(gaps, 0.99),
        "worst_ms": 1e3 * max(gaps),
        "gaps": len(gaps),
    }
    if alone is not None:
        row["stretched_ms"] = 1e3 * (
            percentile(gaps, 0.99) - percentile([gap for one in alone for gap in one.gaps], 0.99)
        )
        plain = [seconds for one in rounds for seconds in one.plain_s]
        long = [seconds for one in rounds for seconds in one.long_s]
        row |= {"arrivals": len(plain) + len(long), "long": len(long)}
        row["first_ms"] = spread(plain).scaled(1e3) if plain else None
        row["long_first_ms"] = spread(long).scaled(1e3) if long else None
    return row


def _table(plan: Plan, rows: list[dict[str, Cell]]) -> Table:
    return Table(
        name="arrivals",
        title=f"Gaps of running streams while {_A_SECOND:g} requests a second arrive, {plan.frames} frames a round",
        columns=[
            Column("who", "who"),
            Column("gap_ms", "gap", "ms"),
            Column("p99_ms", "99th percentile", "ms"),
            Column("stretched_ms", "stretched by", "ms"),
            Column("worst_ms", "worst", "ms"),
            Column("gaps", "gaps"),
            Column("arrivals", "arrivals"),
            Column("long", "of them long"),
            Column("first_ms", "an arrival's first frame", "ms", 1),
            Column("long_first_ms", "a long one's", "ms", 1),
        ],
        rows=rows,
        notes=[
            f"One arrival in {_LONG_EVERY} continues {_RECORDED_FRAMES} frames (60 s) of a recording kept as codes; "
            f"each speaks {_ARRIVAL_FRAMES} frames. The goal is at most {_GOAL_MS:g} ms.",
            "First frame: from the building of the prompt on. The streams' own prompts are read before.",
        ],
    )
