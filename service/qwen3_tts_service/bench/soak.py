"""Requests in a loop for minutes: does memory stay flat, does the GPU stay up?"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.load import inspect
from ..checkpoints.memory import held_bytes
from ..errors import TTSError
from ..pipeline import StreamingEngine
from ..speech.request import FRAMES_A_SECOND
from . import provenance
from .kernel_log import KernelLog
from .original import Spoken, engine_for, speak
from .plan import SENTENCE, Plan
from .process_memory import resident_of_family
from .report import Cell, Column, Report, Table
from .requests import spoken_by
from .statistics import spread

_SAMPLES = 60
#: The first tenth fills caches and pools; what grows afterwards is a leak.
_SETTLED_FROM = 0.1
_CWSR = Path("/sys/module/amdgpu/parameters/cwsr_enable")
_MIB = 1 << 20


@dataclass(frozen=True)
class Sample:
    """One look: seconds since the start, bytes of the processes and of the GPU, requests finished so far."""

    at_s: float
    resident: int
    gpu: int
    requests: int


def run(plan: Plan) -> Report:
    """Loop requests on ``plan.checkpoint`` for ``plan.soak_minutes``.

    As many at a time as the largest of ``plan.batches``. Raises what loading raises; failing requests are
    counted and named in the report.
    """
    slots = max(plan.batches)
    checkpoint = inspect(plan.checkpoint)
    log = KernelLog()
    plan.say("loading and compiling")
    engine = engine_for(plan, slots=slots)
    loop = _Loop(plan, engine)
    threads = [threading.Thread(target=loop.speak_on, args=(number,)) for number in range(slots)]
    try:
        for thread in threads:
            thread.start()
        samples = _watch(plan, loop, engine)
    finally:
        loop.over.set()
        for thread in threads:
            thread.join()
        engine.close()
    trouble = log.trouble()
    log.close()
    facts: dict[str, Any] = {
        "checkpoint": provenance.of_checkpoint(checkpoint),
        "device": str(engine.device),
        "slots": slots,
        "minutes": plan.soak_minutes,
        "requests": len(loop.spoken),
        "failed": len(loop.failures),
        "failures": sorted(set(loop.failures)),
        "sound_hours": sum(spoken.frames for spoken in loop.spoken) / FRAMES_A_SECOND / 3600,
        "kernel_log": log.unreadable or f"{len(trouble)} lines of GPU trouble",
        "gpu_trouble": trouble,
        "amdgpu_cwsr_enable": _CWSR.read_text(encoding="ascii").strip() if _CWSR.exists() else "no amdgpu",
    }
    return Report("soak", provenance.collect(), facts, [_growth(samples), _course(samples)])


class _Loop:
    def __init__(self, plan: Plan, engine: StreamingEngine) -> None:
        self.over = threading.Event()
        self.spoken: list[Spoken] = []
        self.failures: list[str] = []
        self._plan = plan
        self._engine = engine
        self._checkpoint = inspect(plan.checkpoint)

    def speak_on(self, number: int) -> None:
        """Speak texts of random lengths until it is over."""
        choose = random.Random(number)  # noqa: S311 - lengths of test texts
        while not self.over.is_set():
            # A character is at most one token, and half of a slot is left to speak in.
            text = (SENTENCE * 8)[: choose.randint(4, min(600, self._plan.slot_positions // 2))]
            frames = choose.randint(1, self._plan.frames)
            request = spoken_by(self._checkpoint, text, max_frames=frames, seed=choose.getrandbits(31))
            try:
                self.spoken.append(speak(self._engine, request))
            except TTSError as error:
                self.failures.append(f"{error.code}: {error.message}")


def _watch(plan: Plan, loop: _Loop, engine: StreamingEngine) -> list[Sample]:
    started = time.monotonic()
    seconds = plan.soak_minutes * 60
    samples = []
    for number in range(_SAMPLES + 1):
        while (left := started + seconds * number / _SAMPLES - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
        gpu = held_bytes(engine.device) if engine.device.type == "cuda" else 0
        samples.append(Sample(time.monotonic() - started, resident_of_family(), gpu, len(loop.spoken)))
        if number % (_SAMPLES // 6) == 0:
            plan.keep(Report("soak", provenance.collect(), {}, [_course(samples)]))
            plan.say(
                f"{samples[-1].at_s:.0f} s, {samples[-1].requests} requests, {samples[-1].resident / _MIB:.0f} MiB"
            )
    return samples


def _growth(samples: list[Sample]) -> Table:
    settled = samples[int(len(samples) * _SETTLED_FROM) :]
    hours = (settled[-1].at_s - settled[0].at_s) / 3600
    rows: list[dict[str, Cell]] = []
    kinds = (
        ("process and its children", [sample.resident / _MIB for sample in settled]),
        ("GPU, reserved by torch", [sample.gpu / _MIB for sample in settled]),
    )
    for name, values in kinds if settled[-1].gpu else kinds[:1]:
        rows.append(
            {
                "memory": name,
                "first_mib": values[0],
                "last_mib": values[-1],
                "spread_mib": spread(values),
                "mib_an_hour": (values[-1] - values[0]) / hours,
            }
        )
    return Table(
        name="growth",
        title="Memory, after the first tenth of the time",
        columns=[
            Column("memory", "memory"),
            Column("first_mib", "first", "MiB", 0),
            Column("last_mib", "last", "MiB", 0),
            Column("spread_mib", "all", "MiB", 0),
            Column("mib_an_hour", "growth an hour", "MiB", 1),
        ],
        rows=rows,
    )


def _course(samples: list[Sample]) -> Table:
    shown = samples[:: max(1, len(samples) // 12)]
    return Table(
        name="course",
        title="In the course of time",
        columns=[
            Column("at_s", "after", "s", 0),
            Column("requests", "requests"),
            Column("resident_mib", "process", "MiB", 0),
            Column("gpu_mib", "GPU", "MiB", 0),
        ],
        rows=[
            {
                "at_s": sample.at_s,
                "requests": sample.requests,
                "resident_mib": sample.resident / _MIB,
                "gpu_mib": sample.gpu / _MIB,
            }
            for sample in shown
        ],
        plotted=["at_s", "resident_mib", "gpu_mib"],
    )
