"""Frames alone: milliseconds a frame by batch size, beside upstream's generate and the memory's floor."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..checkpoints.load import LoadedModel, load
from ..engine.frame import FrameModel
from ..engine.graphs import FrameRunner
from ..engine.prompt import Prompt, PromptBuilder
from ..errors import ConfigurationError
from ..speech.request import FRAMES_A_SECOND, Sampling
from . import launches, provenance, rates, reads, upstream
from .floors import LanguageModelFloor
from .observation import go_on
from .plan import Plan
from .report import Cell, Column, Report, Table
from .requests import request_of_length
from .statistics import Spread, intervals, spread

#: What the slots of a batch ask for, in turn: each way of sampling has its own cost, and all are in the graph.
MIXED_SAMPLING = (
    Sampling(),
    Sampling(temperature=0.7, top_k=0, top_p=0.9),
    Sampling(temperature=1.1, top_k=20, repetition_penalty=1.2, subtalker_top_p=0.8),
    Sampling(greedy=True),
)
#: Frames before the timed ones: the first launch of a batch size may compile and capture.
_WARM_UPS = 8


@dataclass(frozen=True)
class Frames:
    """Timed frames of one batch size: seconds between two that were read, and seconds of the host for each."""

    gaps: Spread
    host: Spread


def run(plan: Plan) -> Report:
    """Measure the language model of ``plan.checkpoint``.

    Raises CheckpointError and ConfigurationError as loading does, and when the positions do not fit.
    """
    if plan.positions > plan.slot_positions:
        raise ConfigurationError(
            f"{plan.positions} positions do not fit into slots of {plan.slot_positions}", param="--positions"
        )
    model = load(
        plan.checkpoint,
        device=plan.device,
        dtype=plan.dtype,
        codec_device="cpu",
        cpu_threads=plan.cpu_threads,
    )
    measured = rates.measure(model.device, model.dtype)
    prompt_positions = plan.positions - plan.frames - _WARM_UPS - 1
    builder = PromptBuilder(model)
    request = request_of_length(builder, model.checkpoint, prompt_positions)
    prompt = builder.build(request)
    theirs: dict[int, Spread] = {}
    for batch in plan.batches if plan.upstream else ():
        plan.say(f"upstream, batch {batch}")
        spoken = upstream.speak(model, request, batch=batch, frames=plan.frames)
        theirs[batch] = spread(spoken.frame_seconds)
    plan.say("our engine: copying weights, compiling")
    started = time.perf_counter()
    frames = FrameModel(model, slots=max(plan.batches), positions=plan.slot_positions)
    go_on(frames)
    runner = FrameRunner(frames)
    building_s = time.perf_counter() - started
    floor = LanguageModelFloor.of(model.checkpoint.config)
    rows: list[dict[str, Cell]] = []
    last = len(prompt.embeds) + _WARM_UPS + plan.frames
    for batch in plan.batches:
        plan.say(f"ours, batch {batch}")
        timed = time_frames(runner, prompt, batch=batch, frames=plan.frames)
        cost = floor.frame(batch=batch, length=last, bytes_a_number=model.dtype.itemsize)
        least_s = cost.seconds(
            bytes_a_second=measured.bytes_a_second, operations_a_second=measured.operations_a_second
        )
        rows.append(_row(batch, timed, least_s, theirs.get(batch)))
    facts = {
        "checkpoint": {"size": model.checkpoint.model_size, "synthetic": model.checkpoint.synthetic},
        "device": str(model.device),
        "dtype": measured.dtype,
        "threads": measured.threads,
        "ways": {str(batch): way for batch, way in runner.ways().items()},
        "slower_ways_because": {str(batch): reason for batch, reason in runner.reasons().items()},
        "building_s": building_s,
        "read_gb_a_second": measured.bytes_a_second / 1e9,
        "matrix_gflops": measured.operations_a_second / 1e9,
        "memory_gb": _memory_gb(model.device),
    }
    tables = [_frames_table(plan, last, rows), _carried(plan, runner, frames, floor, model)]
    return Report("engine", provenance.collect(), facts, tables)


def time_frames(runner: Any, prompt: Prompt, *, batch: int, frames: int) -> Frames:
    """``frames`` frames of ``batch`` slots with mixed sampling, launched as the service does.

    The slots are admitted here; the last timed frame stands ``frames`` + 8 behind the prompt.
    """
    for slot in range(batch):
        runner.admit(slot, prompt, MIXED_SAMPLING[slot % len(MIXED_SAMPLING)], seed=slot, max_frames=1 << 20)
    active = [True] * batch
    # Where a frame is computed by its launch, nothing can be gained by launching ahead.
    ahead = [] if runner.computes_at_launch else [runner.launch(batch, active)]
    read_at: list[float] = []
    host: list[float] = []
    for _ in range(_WARM_UPS + frames):
        began = time.perf_counter()
        ahead.append(runner.launch(batch, active))
        host.append(time.perf_counter() - began)
        ahead.pop(0).read()
        read_at.append(time.perf_counter())
    for ticket in ahead:
        ticket.read()
    return Frames(spread(intervals(read_at[_WARM_UPS - 1 :])), spread(host[_WARM_UPS:]))


def _row(batch: int, timed: Frames, least_s: float, theirs: Spread | None) -> dict[str, Cell]:
    middle = timed.gaps.median
    return {
        "batch": batch,
        "ms": timed.gaps.scaled(1e3),
        "compute_audio": middle * FRAMES_A_SECOND / batch,
        "audio_s_a_second": batch / (middle * FRAMES_A_SECOND),
        "host_ms": timed.host.scaled(1e3),
        "floor_ms": least_s * 1e3,
        "of_floor": middle / least_s,
        "upstream_ms": theirs.scaled(1e3) if theirs else None,
        "ratio": theirs.median / middle if theirs else None,
    }


def _frames_table(plan: Plan, last: int, rows: list[dict[str, Cell]]) -> Table:
    return Table(
        name="frames",
        title=f"Frames up to {last} of {plan.slot_positions} positions, mixed sampling settings",
        columns=[
            Column("batch", "batch"),
            Column("ms", "ours, a frame", "ms"),
            Column("compute_audio", "compute/audio", digits=4),
            Column("audio_s_a_second", "sound a second", "s", 1),
            Column("host_ms", "of it the host's", "ms"),
            Column("floor_ms", "floor", "ms"),
            Column("of_floor", "times the floor"),
            Column("upstream_ms", "upstream, a frame", "ms", 1),
            Column("ratio", "times faster"),
        ],
        rows=rows,
        notes=[
            f"Median (5th-95th percentile) of the gaps between {plan.frames} frames; on a GPU the next one is "
            "launched before one is read.",
            "Floor: talker weights once, code predictor 15 times, keys and values in use, at the read rate of this "
            "run, or the arithmetic at its matrix rate where that takes longer.",
            "Upstream: its own generate on the same text and weights, the checkpoint's sampling; neither may end.",
        ],
        plotted=["batch", "ms", "upstream_ms", "floor_ms"],
    )


def _carried(
    plan: Plan, runner: Any, frames: FrameModel, floor: LanguageModelFloor, model: LoadedModel
) -> Table:
    """What follows from the program and holds on other devices, too."""
    rows: list[dict[str, Cell]] = []
    kept = reads.tensors_of(frames)
    for batch in sorted({min(plan.batches), max(plan.batches)}):
        plan.say(f"bytes and kernels of a frame, batch {batch}")
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            counted = reads.count(partial(frames.frame, batch, plan.positions), kept)
        cost = floor.frame(batch=batch, length=plan.positions, bytes_a_number=model.dtype.itemsize)
        rows.append(
            {
                "batch": batch,
                "kernels": launches.kernels(partial(_one_frame, runner, batch), model.device),
                "operators": counted.operators,
                "read_gb": counted.bytes / 1e9,
                "geometry_gb": cost.bytes / 1e9,
                "ratio": counted.bytes / cost.bytes,
            }
        )
    return Table(
        name="program",
        title="The program of one frame",
        columns=[
            Column("batch", "batch"),
            Column("kernels", "kernels"),
            Column("operators", "operators before compiling"),
            Column("read_gb", "read", "GB", 3),
            Column("geometry_gb", "by the geometry", "GB", 3),
            Column("ratio", "read/geometry", digits=3),
        ],
        rows=rows,
        notes=[
            "Bytes of weights, caches and state that its operators read, counted while it ran eagerly once."
        ],
    )


def _one_frame(runner: Any, batch: int) -> None:
    runner.launch(batch, [True] * batch).read()


def _memory_gb(device: torch.device) -> float | None:
    """The most that torch ever held of the GPU's memory, upstream's copy of the weights included."""
    return torch.cuda.max_memory_reserved(device) / 1e9 if device.type == "cuda" else None
