"""Frames alone: milliseconds a frame by batch size, beside upstream's generate and the memory's floor."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch

from ..checkpoints.load import LoadedModel, load
from ..engine.frame import FrameModel
from ..engine.graphs import FrameRunner
from ..engine.prompt import PromptBuilder
from ..errors import ConfigurationError
from ..native import default_directory
from ..speech.request import FRAMES_A_SECOND
from . import int8, launches, provenance, rates, reads, upstream
from .floors import LanguageModelFloor
from .frame_timing import WARM_UPS, Frames, time_frames
from .observation import go_on
from .plan import Plan
from .report import Cell, Column, Report, Table
from .requests import request_of_length
from .statistics import spread


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
    prompt_positions = plan.positions - plan.frames - WARM_UPS - 1
    builder = PromptBuilder(model)
    request = request_of_length(builder, model.checkpoint, prompt_positions)
    prompt = builder.build(request)
    plan.say("our engine: copying weights, compiling")
    started = time.perf_counter()
    frames = FrameModel(
        model, slots=max(plan.batches), positions=plan.slot_positions, kernels=default_directory()
    )
    go_on(frames)
    runner = FrameRunner(frames)
    floor = LanguageModelFloor.of(model.checkpoint.config)
    facts = {
        "checkpoint": provenance.of_checkpoint(model.checkpoint),
        "device": str(model.device),
        "dtype": measured.dtype,
        "threads": measured.threads,
        "bytes_a_weight": frames.bytes_a_weight,
        "ways": {str(batch): way for batch, way in runner.ways().items()},
        "slower_ways_because": {str(batch): reason for batch, reason in runner.reasons().items()},
        "building_s": time.perf_counter() - started,
        "read_gb_a_second": measured.bytes_a_second / 1e9,
        "matrix_gflops": measured.operations_a_second / 1e9,
    }
    last = len(prompt.embeds) + WARM_UPS + plan.frames
    rows: list[dict[str, Cell]] = []
    more: list[Table] = []

    def report() -> Report:
        found = facts | {"memory_gb": _memory_gb(model.device)}
        return Report("engine", provenance.collect(), found, [_frames_table(plan, last, rows), *more])

    timed: dict[int, Frames] = {}
    # Ours first: upstream takes minutes, and whoever is stopped meanwhile has this.
    for batch in plan.batches:
        timed[batch] = time_frames(runner, prompt, batch=batch, frames=plan.frames)
        cost = floor.frame(
            batch=batch,
            length=last,
            bytes_a_number=model.dtype.itemsize,
            bytes_a_weight=frames.bytes_a_weight,
        )
        least_s = cost.seconds(
            bytes_a_second=measured.bytes_a_second, operations_a_second=measured.operations_a_second
        )
        rows.append(_row(batch, timed[batch], least_s))
        plan.say(_frames_table(plan, last, rows).line(rows[-1]))
        plan.keep(report())
    more.append(_carried(plan, runner, frames, floor, model))
    plan.keep(report())
    del runner, frames
    if plan.weights == "int8":
        more += int8.tables(plan, model, prompt, timed)
        plan.keep(report())
    for row, batch in zip(rows, plan.batches if plan.upstream else (), strict=False):
        spoken = upstream.speak(model, request, batch=batch, frames=plan.frames)
        theirs = spread(spoken.frame_seconds)
        row |= {"upstream_ms": theirs.scaled(1e3), "ratio": theirs.median / timed[batch].gaps.median}
        plan.say(_frames_table(plan, last, rows).line(row))
        plan.keep(report())
    return report()


def _row(batch: int, timed: Frames, least_s: float) -> dict[str, Cell]:
    middle = timed.gaps.median
    return {
        "batch": batch,
        "ms": timed.gaps.scaled(1e3),
        "compute_audio": middle * FRAMES_A_SECOND / batch,
        "audio_s_a_second": batch / (middle * FRAMES_A_SECOND),
        "host_ms": timed.host.scaled(1e3),
        "floor_ms": least_s * 1e3,
        "of_floor": middle / least_s,
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
        cost = floor.frame(
            batch=batch,
            length=plan.positions,
            bytes_a_number=model.dtype.itemsize,
            bytes_a_weight=frames.bytes_a_weight,
        )
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
