"""The 9 s sentence three ways in one run: plain upstream, the original recipe, this service's engine.

The original recipe is upstream with its codec moved to the CPU, because MIOpen searches kernels anew for every
length; one after the other: all frames, then all sound.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..checkpoints.load import LoadedModel, inspect, load
from ..native import default_directory
from ..pipeline import StreamingEngine, Timeline
from ..pipeline.loading import streaming_engine
from ..pipeline.shared_codec import SharedCodec
from ..speech.request import FRAMES_A_SECOND, SAMPLES_A_FRAME, SpeechRequest
from . import provenance, upstream
from .observation import endless
from .plan import SENTENCE, CodecDevice, Plan
from .report import Cell, Column, Report, Table
from .requests import spoken_by
from .statistics import percentile, spread

_DEADLINE_S = 3600.0
#: Decodes at the beginning and at the end of the timeline: one that is slower than its sound has one for each frame.
_SHOWN = 8


@dataclass(frozen=True)
class Spoken:
    """One request: seconds to its first 1,920 samples, to its end, of making frames, of decoding; frames.

    ``sent`` is when it began (``time.monotonic``), ``timeline`` what happened then; None for upstream's.
    """

    first_s: float
    whole_s: float
    talk_s: float
    decode_s: float
    frames: int
    sent: float = 0.0
    timeline: Timeline | None = None


def run(plan: Plan) -> Report:
    """Measure the three ways on ``plan.checkpoint``. Raises CheckpointError and ConfigurationError."""
    checkpoint = inspect(plan.checkpoint)
    request = spoken_by(checkpoint, SENTENCE, max_frames=plan.frames, seed=0)
    rows = _upstream_ways(plan, request) if plan.upstream else []
    plan.say("our engine: loading and compiling")
    started = time.perf_counter()
    with endless():
        engine = engine_for(plan)
    facts = {
        "checkpoint": provenance.of_checkpoint(checkpoint),
        "device": str(engine.device),
        "dtype": str(engine.dtype).removeprefix("torch."),
        "codec_device": plan.codec_device,
        "sentence": SENTENCE,
        "building_s": time.perf_counter() - started,
        "ways": {str(batch): str(way) for batch, way in engine.ways().items()},
        "plain_upstreams_codec": "on the model's device and in its precision, as from_pretrained leaves it",
    }
    try:
        ours = _repeat(plan, "ours", lambda: speak(engine, request))
    finally:
        engine.close()
    rows.append(("ours", ours))
    note = how_both_run(engine.device.type, plan.codec_device)
    tables = [_table(plan, rows, note), timeline_table(ours[-1])]
    return Report("original", provenance.collect(), facts, tables)


def _upstream_ways(plan: Plan, request: SpeechRequest) -> list[tuple[str, list[Spoken]]]:
    model = _load(plan, "cpu")

    def speak_once() -> Spoken:
        return _upstream(model, request, plan.frames)

    recipe = _repeat(plan, "original recipe", speak_once)
    _as_plain_upstream(model)
    plain = _repeat(plan, "plain upstream", speak_once)
    return [("plain upstream", plain), ("original recipe: codec on the CPU", recipe)]


def engine_for(plan: Plan, *, codec_dtype: Any = "fp32", slots: int = 1) -> StreamingEngine:
    """The service's engine on the plan's checkpoint and devices, started."""
    model = _load(plan, plan.codec_device)
    codec = SharedCodec(dtype=codec_dtype, threads=plan.cpu_threads, compile=plan.fastest_way != "eager")
    return streaming_engine(
        model,
        codec,
        slots=slots,
        positions=plan.slot_positions,
        fastest=None if plan.fastest_way == "auto" else plan.fastest_way,
        kernels=None if plan.fastest_way == "eager" else default_directory(),
    )


def speak(engine: StreamingEngine, request: SpeechRequest) -> Spoken:
    """Speak ``request`` and take its sound as it comes."""
    started = time.monotonic()
    utterance = engine.open(request, deadline=started + _DEADLINE_S)
    samples, first_s = 0, 0.0
    for chunk in utterance:
        samples += len(chunk)
        if not first_s and samples >= SAMPLES_A_FRAME:
            first_s = time.monotonic() - started
    whole_s = time.monotonic() - started
    line = utterance.timeline
    return Spoken(first_s, whole_s, line.talk_s, line.decode_s, samples // SAMPLES_A_FRAME, started, line)


def _load(plan: Plan, codec_device: Any) -> LoadedModel:
    return load(
        plan.checkpoint,
        device=plan.device,
        dtype=plan.dtype,
        codec_device=codec_device,
        cpu_threads=plan.cpu_threads,
    )


def _as_plain_upstream(model: LoadedModel) -> None:
    """Everything on the model's device and in its precision: what ``from_pretrained`` with a device map gives."""
    codec: Any = model.upstream.model.speech_tokenizer
    codec.model.to(model.device, model.dtype)
    codec.device = model.device


def _upstream(model: LoadedModel, request: SpeechRequest, frames: int) -> Spoken:
    """All frames, then all sound: the first sample comes with the last."""
    spoken = upstream.speak(model, request, batch=1, frames=frames)
    started = time.perf_counter()
    upstream.decode(model, spoken.codes[0])
    decode_s = time.perf_counter() - started
    whole_s = spoken.seconds + decode_s
    return Spoken(whole_s, whole_s, spoken.seconds, decode_s, len(spoken.codes[0]))


def _repeat(plan: Plan, name: str, speak_once: Callable[[], Spoken]) -> list[Spoken]:
    """``plan.repeats`` requests after one that warms up."""
    runs = []
    for number in range(plan.repeats + 1):
        plan.say(f"{name}, request {number} of {plan.repeats}")
        runs.append(speak_once())
    return runs[1:]


def how_both_run(device: str, codec_device: CodecDevice) -> str:
    """What the times of ours mean, with frames on a ``device`` of this type and the codec on ``codec_device``."""
    if device == codec_device == "cpu":
        return (
            "Ours makes frames and decodes by turns on the same cores: its whole request is about what both take one "
            "after the other, and the decodes before the last frame are in the time of its frames."
        )
    return "Ours makes frames and decodes at the same time: its whole request is less than their sum."


def timeline_table(run: Spoken) -> Table:
    """When each decode of a request of ours began and ended, and how many frames were made by then."""
    line = run.timeline
    assert line is not None
    assert line.last_frame is not None
    rows: list[dict[str, Cell]] = [
        {
            "began_ms": (decode.started - run.sent) * 1e3,
            "ended_ms": (decode.ended - run.sent) * 1e3,
            "frames": decode.frames,
            "made": bisect_right(line.frames, decode.started),
        }
        for decode in line.decodes
    ]
    notes = [
        f"Milliseconds since the request was sent. {line.overlap_s / line.decode_s:.0%} of the decoding was done "
        "before the last frame was made."
    ]
    left_out = len(rows) - 2 * _SHOWN
    if left_out > 0:
        del rows[_SHOWN:-_SHOWN]
        notes.append(f"{left_out} decodes in the middle are left out.")
    return Table(
        name="timeline",
        title=f"Timeline of one request of ours: {run.frames} frames, the last one made after "
        f"{(line.last_frame - run.sent) * 1e3:,.0f} ms, all heard after {run.whole_s * 1e3:,.0f} ms",
        columns=[
            Column("began_ms", "decode began", "ms", 1),
            Column("ended_ms", "ended", "ms", 1),
            Column("frames", "frames decoded"),
            Column("made", "frames made when it began"),
        ],
        rows=rows,
        notes=notes,
    )


def _table(plan: Plan, measured: list[tuple[str, list[Spoken]]], note: str) -> Table:
    slowest = percentile([run.whole_s for run in measured[0][1]], 0.5)
    rows: list[dict[str, Cell]] = []
    for name, runs in measured:
        whole = spread([run.whole_s for run in runs])
        rows.append(
            {
                "way": name,
                "whole_s": whole,
                "first_ms": spread([run.first_s for run in runs]).scaled(1e3),
                "talk_s": spread([run.talk_s for run in runs]),
                "decode_s": spread([run.decode_s for run in runs]),
                "compute_audio": whole.median * FRAMES_A_SECOND / runs[0].frames,
                "ratio": slowest / whole.median,
                "frames": runs[0].frames,
            }
        )
    return Table(
        name="original",
        title=f"One sentence, {plan.frames} frames ({plan.frames / FRAMES_A_SECOND:.2f} s of sound)",
        columns=[
            Column("way", "way"),
            Column("whole_s", "whole request", "s", 3),
            Column("first_ms", "first sound", "ms", 1),
            Column("talk_s", "frames", "s", 3),
            Column("decode_s", "decoding", "s", 3),
            Column("compute_audio", "compute/audio", digits=3),
            Column("ratio", "times faster", digits=1),
            Column("frames", "frames made"),
        ],
        rows=rows,
        notes=[note],
    )
