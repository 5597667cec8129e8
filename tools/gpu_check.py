#!/usr/bin/env python3
"""The one script for a machine with a GPU, in parts of minutes.

``parity`` compares the engine with upstream on the device, in float32 and bfloat16: scores of every frame at the
beginning and at the end of a slot, codes alone, in full batches and under random schedules; the codec with
upstream's decoder (also beyond 24 s, with streams far apart), and the sampling kernel with plain torch. ``frames``
times frames (with the checkpoint's weights and in 8 bits), arrivals beside them and a sentence three ways, ``http``
requests, ``rate`` requests at random times, ``codec`` decoding alone. ``load`` measures the gaps between frames with
64 streaming clients against nobody else, ``memory`` what a thousand requests leave behind.

It needs torch and the service's Python dependencies, nothing of ``make venv``: run it with
``PYTHONPATH=service``. Without ``--checkpoint`` it writes a synthetic 1.7B one first. Every measurement is a
process of its own; its figures go to ``PART-NAME.json`` in the output folder, row by row, with the hash of
``engine/`` and ``codec/``, hardware, versions and date. What is compiled for one is found by the next.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SERVICE = ROOT / "service"
sys.path.insert(0, str(SERVICE))


@dataclass(frozen=True)
class Measurement:
    """A module under ``bench/`` with what of its plan differs from the common, and seconds that it may take.

    ``base``: on a base checkpoint, which clones voices.
    """

    name: str
    module: str
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)
    base: bool = False


#: Where and how a server's codec computes, by the name of a measurement.
_ON_CPU = ("codec-cpu", {"codec_device": "cpu", "codec_dtype": "fp32"})
_ON_GPU = (
    ("codec-gpu", {"codec_device": "gpu", "codec_dtype": "fp32"}),
    ("codec-gpu-bf16", {"codec_device": "gpu", "codec_dtype": "bf16"}),
)
#: Part -> its measurements, each part under eight minutes. Those of ``parity`` run at the same time: nothing is
#: timed there, and upstream keeps the host busy, not the GPU.
PARTS: dict[str, tuple[Measurement, ...]] = {
    "parity": (
        Measurement("fp32", "parity", 280, {"dtype": "fp32", "frames": 112, "batches": (8,)}),
        Measurement("bf16", "parity", 280, {"dtype": "bf16", "frames": 112, "batches": (32,)}),
        Measurement("codec", "codec_parity", 200, {"frames": 112}),
        Measurement("sampler", "sampler_parity", 120),
    ),
    "frames": (
        Measurement("arrivals", "arrivals", 110, {"frames": 1800, "batches": (8,)}, base=True),
        # Upstream comes last in it and may be cut off.
        Measurement("engine", "engine_suite", 150, {"weights": "int8"}),
        Measurement("original", "original", 120, {"repeats": 2}),
    ),
    "http": tuple(
        Measurement(name, "serve_suite", seconds, codec | own | {"upstream": False})
        for seconds, own, codecs in (
            (70, {"clients": (1,), "repeats": 10}, (_ON_CPU,)),
            (110, {"clients": (32,), "repeats": 2}, _ON_GPU),
        )
        for name, codec in codecs
    ),
    "rate": tuple(
        # 5 s of sound.
        Measurement(name, "request_rate", 170, codec | {"batches": (32,), "frames": 63, "rate_s": 8.0})
        for name, codec in _ON_GPU
    ),
    "codec": (
        Measurement("gpu", "codec_suite", 60, {"codec_device": "gpu"}),
        Measurement("cpu", "codec_suite", 90, {"repeats": 2, "batches": (1, 4, 8)}),
    ),
    "memory": (
        Measurement("bf16", "memory", 90, {"frames": 60, "batches": (8,)}),
        Measurement("int8", "memory", 90, {"frames": 60, "batches": (8,), "weights": "int8"}),
    ),
    "load": tuple(
        Measurement(name, "load", 150, codec | {"clients": (64,), "frames": 1500, "repeats": 1})
        for name, codec in (_ON_CPU, *_ON_GPU)
    ),
}
TOGETHER = frozenset({"parity"})


def main() -> int:
    """Run the chosen parts; exit status 1 when one failed, ran out of time, or parity does not hold."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--part", choices=tuple(PARTS), action="append", help="only this part; repeatable")
    parser.add_argument("--only", action="append", metavar="NAME", help="of a part, only this measurement")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint; without it a synthetic one is written")
    parser.add_argument(
        "--base-checkpoint", type=Path, help="one that clones, for arrivals; without it a synthetic one"
    )
    parser.add_argument(
        "--geometry", choices=("tiny", "0.6b", "1.7b"), default="1.7b", help="of the synthetic ones"
    )
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder for the JSON files")
    parser.add_argument(
        "--work", type=Path, default=Path("gpu-check"), help="folder for checkpoints and compiled code"
    )
    parser.add_argument("--device", default="auto", help="auto, cuda or cuda:N; cpu only to try the script")
    parser.add_argument(
        "--budget", type=float, default=3600.0, help="seconds; what would not fit is not started"
    )
    parser.add_argument(
        "--settings", type=json.loads, default={}, help="JSON that replaces members of the plan"
    )
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.budget
    for folder in (arguments.out, arguments.work):
        folder.mkdir(parents=True, exist_ok=True)
    for name, folder in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton")):
        os.environ.setdefault(name, str(arguments.work.resolve() / "compiled" / folder))
    failed: list[str] = []
    for part in arguments.part or PARTS:
        chosen = [one for one in PARTS[part] if not arguments.only or one.name in arguments.only]
        for group in [chosen] if part in TOGETHER else [[one] for one in chosen]:
            failed += _measure(part, group, arguments, deadline)
    print("failed: " + ", ".join(failed) if failed else "all held", flush=True)
    return 1 if failed else 0


def _measure(
    part: str, group: list[Measurement], arguments: argparse.Namespace, deadline: float
) -> list[str]:
    """Run the measurements of ``group`` at the same time; the names of those that failed or did not hold."""
    if group and time.monotonic() + max(one.seconds for one in group) > deadline:
        names = [f"{part}-{one.name}" for one in group]
        print(f"=== no time left for {', '.join(names)}", flush=True)
        return names
    started = time.monotonic()
    running = []
    for one in group:
        out = arguments.out / f"{part}-{one.name}.json"
        out.unlink(missing_ok=True)
        plan = {"checkpoint": str(_checkpoint(arguments, base=one.base)), "device": arguments.device}
        running.append((out, _start(one, out, plan | one.settings | arguments.settings)))
    failed = []
    for out, process in running:
        if not _held(process, out, deadline):
            failed.append(out.stem)
        print(f"=== {out.stem}: {time.monotonic() - started:.0f} s", flush=True)
    return failed


def _start(one: Measurement, out: Path, plan: dict[str, Any]) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(filter(None, (str(SERVICE), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-m", "qwen3_tts_service.bench", one.module, str(out), json.dumps(plan)],
        env={**os.environ, "PYTHONPATH": path},
        # With servers and workers of its own: all of them are stopped when time is over.
        start_new_session=True,
    )


def _held(process: subprocess.Popen[bytes], out: Path, deadline: float) -> bool:
    """Wait for a measurement; true when it succeeded and all that it judges held."""
    try:
        status = process.wait(max(deadline - time.monotonic(), 1.0))
    except subprocess.TimeoutExpired:
        print(f"{out.stem}: stopped, the time is over; {out} has what was found", file=sys.stderr)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False
    if status or not out.is_file():
        return False
    passed: bool = json.loads(out.read_text(encoding="utf-8"))["facts"].get("passed", True)
    return passed


def _checkpoint(arguments: argparse.Namespace, *, base: bool) -> Path:
    """The checkpoint that was named, or a synthetic one; one that was finished before is taken again."""
    from qwen3_tts_service.checkpoints import synthetic

    named: Path | None = arguments.base_checkpoint if base else arguments.checkpoint
    if named:
        return named
    kind: synthetic.ModelType = "base" if base else "custom_voice"
    directory: Path = arguments.work / f"synthetic-{arguments.geometry}-{kind}"
    if not synthetic.is_synthetic(directory):
        started = time.monotonic()
        beside = arguments.work / f"synthetic-{arguments.geometry}-custom_voice"
        if base and synthetic.is_synthetic(beside):
            from qwen3_tts_service.checkpoints import synthetic_base

            synthetic_base.write(directory, beside)
        else:
            synthetic.write(directory, geometry=arguments.geometry, model_type=kind, seed=0)
        print(f"=== wrote {directory} in {time.monotonic() - started:.0f} s", flush=True)
    return directory


if __name__ == "__main__":
    sys.exit(main())
