#!/usr/bin/env python3
"""The one script for a machine with a GPU: parity, table, load; each a part of its own, in minutes.

``parity`` compares the engine with upstream on the device, in float32 and bfloat16, alone and in full batches,
and under random schedules. ``table`` is the benchmark: frames, codec on the GPU and on the CPU, a whole
request three ways. ``load`` measures the gaps between frames with 64 streaming clients against nobody else.

It needs torch and the service's Python dependencies, nothing of ``make venv``: run it with
``PYTHONPATH=service``. Without ``--checkpoint`` it writes a synthetic 1.7B one first. Every part is a process
of its own; its figures go to ``PART-NAME.json`` in the output folder, with the hash of ``engine/`` and
``codec/``, hardware, versions and date.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SERVICE = ROOT / "service"
sys.path.insert(0, str(SERVICE))

#: A part is stopped here: each has to fit into a job of ten minutes with the checkpoint's writing.
LIMIT_S = 480.0

#: Part -> its measurements: name, module under ``bench/``, and what of the plan differs from the common.
PARTS: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "parity": [("parity", "parity", {"frames": 100, "batches": (8,)})],
    "table": [
        ("engine", "engine_suite", {}),
        ("original", "original", {"repeats": 2}),
        ("codec-gpu", "codec_suite", {"codec_device": "gpu"}),
        ("codec-cpu", "codec_suite", {"codec_device": "cpu", "repeats": 2, "batches": (1, 4, 8)}),
    ],
    "load": [("load", "load", {"clients": (64,), "codec_device": "gpu", "frames": 400, "repeats": 2})],
}


def main() -> int:
    """Run the chosen parts; exit status 1 when one failed, ran out of time, or parity does not hold."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--part", choices=tuple(PARTS), action="append", help="only this part; repeatable")
    parser.add_argument("--only", action="append", metavar="NAME", help="of a part, only this measurement")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint; without it a synthetic one is written")
    parser.add_argument(
        "--geometry", choices=("tiny", "0.6b", "1.7b"), default="1.7b", help="of the synthetic one"
    )
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder for the JSON files")
    parser.add_argument("--device", default="auto", help="auto, cuda or cuda:N; cpu only to try the script")
    parser.add_argument(
        "--settings", type=json.loads, default={}, help="JSON that replaces members of the plan"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    checkpoint = arguments.checkpoint or _synthetic(
        arguments.out / f"synthetic-{arguments.geometry}", arguments.geometry
    )
    failed = []
    for part in arguments.part or PARTS:
        left = LIMIT_S
        for name, module, own in PARTS[part]:
            if arguments.only and name not in arguments.only:
                continue
            plan = {"checkpoint": str(checkpoint), "device": arguments.device} | own | arguments.settings
            started = time.monotonic()
            if not _measure(module, arguments.out / f"{part}-{name}.json", plan, left):
                failed.append(f"{part}-{name}")
            left -= time.monotonic() - started
            print(f"=== {part}-{name}: {time.monotonic() - started:.0f} s", flush=True)
    print("failed: " + ", ".join(failed) if failed else "all held", flush=True)
    return 1 if failed else 0


def _synthetic(directory: Path, geometry: str) -> Path:
    """A checkpoint of random weights; one that was finished before is taken again."""
    from qwen3_tts_service.checkpoints import synthetic

    if not synthetic.is_synthetic(directory):
        started = time.monotonic()
        synthetic.write(directory, geometry=geometry, model_type="custom_voice", seed=0)
        print(f"=== wrote {directory} in {time.monotonic() - started:.0f} s", flush=True)
    return directory


def _measure(module: str, out: Path, plan: dict[str, Any], limit_s: float) -> bool:
    """One measurement in a process of its own; true when it succeeded and all that it judges held."""
    out.unlink(missing_ok=True)
    path = os.pathsep.join(filter(None, (str(SERVICE), os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "qwen3_tts_service.bench", module, str(out), json.dumps(plan)],
            env={**os.environ, "PYTHONPATH": path},
            timeout=max(limit_s, 1.0),
            check=False,
        )
    except subprocess.TimeoutExpired:
        print(f"{module}: stopped, the part's {LIMIT_S:.0f} s are over", file=sys.stderr)
        return False
    if done.returncode or not out.is_file():
        return False
    passed: bool = json.loads(out.read_text(encoding="utf-8"))["facts"].get("passed", True)
    return passed


if __name__ == "__main__":
    sys.exit(main())
