"""What the language model holds of the GPU's memory, and whether a thousand requests change that."""

from __future__ import annotations

import random
from typing import Any

import torch

from ..checkpoints.load import load
from ..checkpoints.memory import held_bytes
from ..engine.frame import FrameModel
from ..engine.graphs import FrameRunner
from ..engine.prompt import PromptBuilder
from ..native import default_directory
from ..speech.request import Sampling
from . import provenance
from .observation import go_on
from .plan import Plan
from .report import Cell, Column, Report, Table
from .requests import request_of_length, spoken_by
from .schedules import Reader, finish, request, scheduler

_REQUESTS = 1000
_LOOKS = (0, 100, 500, 1000)
_FEWEST_FRAMES = 5
#: Requests that wait or speak at a time, as many as a server would let in.
_WAITING = 16
#: The goal for the 1.7B checkpoint with 8 slots of 2,048 positions.
_GOAL_GB = 7.5


def run(plan: Plan) -> Report:
    """1,000 requests of random lengths in as many slots as the largest of ``plan.batches``.

    Each speaks 5 to ``plan.frames`` frames; prompts have any length that leaves room for them.
    """
    model = load(plan.checkpoint, device=plan.device, dtype=plan.dtype, cpu_threads=plan.cpu_threads)
    builder, device = PromptBuilder(model), model.device
    longest = request_of_length(builder, model.checkpoint, plan.slot_positions - plan.frames)
    words = longest.text.split()
    plan.say(f"{plan.weights}: compiling")
    slots = max(plan.batches)
    frames = FrameModel(
        model,
        slots=slots,
        positions=plan.slot_positions,
        weights=plan.weights,
        release_upstream=True,
        kernels=default_directory(),
    )
    go_on(frames)
    runner = FrameRunner(frames)
    facts: dict[str, Any] = {
        "checkpoint": provenance.of_checkpoint(model.checkpoint),
        "device": str(device),
        "weights": plan.weights,
        "slots": slots,
        "ways": {str(batch): way for batch, way in runner.ways().items()},
        "goal_gb": _GOAL_GB,
    }
    rows: list[dict[str, Cell]] = []
    chance, turned = random.Random(0), scheduler(runner)  # noqa: S311 - lengths of test requests
    readers: list[Reader] = []
    for done in range(_REQUESTS + 1):
        if done in _LOOKS:
            finish(turned)
            rows.append(_row(done, device))
            plan.say(_table(plan, slots, rows).line(rows[-1]))
            plan.keep(Report("memory", provenance.collect(), facts, [_table(plan, slots, rows)]))
        if done == _REQUESTS:
            break
        text = " ".join(words[: chance.randint(1, len(words))])
        prompt = builder.build(spoken_by(model.checkpoint, text))
        count = chance.randint(_FEWEST_FRAMES, plan.frames)
        reader = Reader()
        readers.append(reader)
        turned.submit(request(prompt, Sampling(), done, count), reader)
        while turned.stats().queued > _WAITING:
            turned.round()
    facts["failed"] = sum(reader.error is not None for reader in readers)
    facts["frames"] = sum(len(reader.frames) for reader in readers)
    return Report("memory", provenance.collect(), facts, [_table(plan, slots, rows)])


def _row(done: int, device: torch.device) -> dict[str, Cell]:
    row: dict[str, Cell] = {"requests": done, "held_gb": held_bytes(device) / 1e9}
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        row |= {
            "most_gb": torch.cuda.max_memory_reserved(device) / 1e9,
            "allocated_gb": torch.cuda.memory_allocated(device) / 1e9,
            "used_gb": (total - free) / 1e9,
        }
    return row


def _table(plan: Plan, slots: int, rows: list[dict[str, Cell]]) -> Table:
    return Table(
        name="memory",
        title=f"Memory of the language model, weights {plan.weights}, {slots} slots of {plan.slot_positions} positions",
        columns=[
            Column("requests", "after requests"),
            Column("most_gb", "most ever reserved", "GB", 3),
            Column("held_gb", "held", "GB", 3),
            Column("allocated_gb", "in use", "GB", 3),
            Column("used_gb", "of the GPU by all", "GB", 3),
        ],
        rows=rows,
        notes=[
            f"Requests of {_FEWEST_FRAMES} to {plan.frames} frames behind prompts of any length. Held: on a GPU what "
            "torch has reserved, else the process' resident memory. The most includes the loading of the checkpoint.",
            f"The goal on a GPU is at most {_GOAL_GB:g} GB, and as much after as before.",
        ],
    )
