#!/usr/bin/env python3
"""Time upstream's codec decoder under ONNX Runtime and OpenVINO beside ours and upstream's own, on the CPU.

``tools/codec_alternatives.py DIR --json FILE`` reads the codec of a checkpoint (``qwen3-tts checkpoint synthetic DIR
--geometry 0.6b`` writes one of the published geometry), exports its decoder for one undivided pass of so many frames
and lets every runtime decode the same codes, round by round in one process. ``tools/benchmarks_page.py --table FILE``
turns the figures into a table.

The runtimes are no dependencies of the service, so this runs in an environment of its own: the service's locked
packages (``qwen3-tts patch apply`` included) with onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.32.0 and openvino
2026.4.1, and ``service`` in PYTHONPATH.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FRAMES_A_SECOND = 12.5
RUNTIMES = ("onnx", "onnxscript", "onnxruntime", "openvino")
REFERENCE = "upstream, torch"


@dataclass(frozen=True)
class Way:
    """One way to decode the codes: ``run`` returns the sound [samples]; ``ready_s`` seconds went into building it."""

    name: str
    precision: str
    ready_s: float
    run: Callable[[], Any]


def upstream_decoder(checkpoint: Path) -> Any:
    """Upstream's decoder with the checkpoint's weights, in float32."""
    import torch
    from qwen_tts import Qwen3TTSTokenizer

    folder = str(checkpoint / "speech_tokenizer")
    return Qwen3TTSTokenizer.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    ).model.decoder.eval()


def export(decoder: Any, codes: Any, file: Path) -> float:
    """Write ``decoder`` for codes of this shape as ONNX with its weights beside it; seconds that it took.

    By torch.export: the older exporter runs the model under its tracer.
    """
    import torch

    started = time.perf_counter()
    torch.onnx.export(
        decoder,
        (codes,),
        str(file),
        dynamo=True,
        input_names=["codes"],
        output_names=["sound"],
        external_data=True,
        verbose=False,
    )
    return time.perf_counter() - started


def with_torch(decoder: Any, codes: Any) -> Way:
    """Upstream's own code, as it is."""
    return Way(REFERENCE, "fp32", 0.0, lambda: decoder(codes)[0, 0].numpy())


def with_ours(decoder: Any, codes: Any, precision: str) -> Way:
    """The service's decoder: it could stop after every frame, and is asked for all of them."""
    import torch

    from qwen3_tts_service.codec.streaming import StreamingDecoder

    started = time.perf_counter()
    built = StreamingDecoder(decoder, dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[precision])
    ready_s = time.perf_counter() - started
    return Way(
        f"ours, {built.way}", precision, ready_s, lambda: built.decode(codes, built.new_state())[0].numpy()
    )


def with_onnxruntime(file: Path, codes: Any, threads: int) -> Way:
    """ONNX Runtime's CPU provider with all its graph optimisations, which are its default."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Its threads would go on waiting in a loop while the next way is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    started = time.perf_counter()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    ready_s = time.perf_counter() - started
    feed = {"codes": codes.numpy()}
    return Way("ONNX Runtime", "fp32", ready_s, lambda: session.run(None, feed)[0][0, 0])


def with_openvino(file: Path, codes: Any, threads: int, precision: str) -> Way:
    """OpenVINO's CPU plugin, for the shortest time of one request."""
    import openvino

    hints = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    started = time.perf_counter()
    compiled = openvino.Core().compile_model(str(file), "CPU", hints)
    ready_s = time.perf_counter() - started
    feed = {"codes": codes.numpy()}
    # The result lies in memory that the next request writes again.
    return Way("OpenVINO", precision, ready_s, lambda: compiled(feed)[0][0, 0].copy())


def ways(decoder: Any, codes: Any, file: Path, threads: int) -> Iterator[Way]:
    """Everything that this processor can compute; bf16 only where it has instructions for it."""
    import openvino

    yield with_torch(decoder, codes)
    yield with_ours(decoder, codes, "fp32")
    yield with_onnxruntime(file, codes, threads)
    yield with_openvino(file, codes, threads, "fp32")
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        yield with_ours(decoder, codes, "bf16")
        yield with_openvino(file, codes, threads, "bf16")


def measure(arguments: argparse.Namespace) -> Any:
    """The report: every way once to warm up and to be compared, then round by round."""
    import torch

    from qwen3_tts_service.bench import provenance
    from qwen3_tts_service.bench.report import Column, Report, Table
    from qwen3_tts_service.bench.statistics import percentile, spread

    torch.set_num_threads(arguments.cores)
    decoder = upstream_decoder(arguments.checkpoint)
    shape = (1, decoder.config.num_quantizers, arguments.frames)
    codes = torch.randint(0, decoder.config.codebook_size, shape, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        file = Path(folder) / "decoder.onnx"
        export_s = export(decoder, codes, file)
        tried = list(ways(decoder, codes, file, arguments.cores))
        sounds = [torch.from_numpy(way.run()) for way in tried]
        seconds: list[list[float]] = [[] for _ in tried]
        for _ in range(arguments.rounds):
            for way, times in zip(tried, seconds, strict=True):
                started = time.perf_counter()
                way.run()
                times.append(time.perf_counter() - started)
    audio_s = arguments.frames / FRAMES_A_SECOND
    rows = []
    for way, times, sound in zip(tried, seconds, sounds, strict=True):
        ratios = [theirs / own for theirs, own in zip(seconds[0], times, strict=True)]
        row = {
            "way": way.name,
            "precision": way.precision,
            "ready_s": way.ready_s or None,
            "seconds": spread(times),
            "compute_audio": percentile(times, 0.5) / audio_s,
            "ratio": percentile(ratios, 0.5),
            "error": f"{float((sound - sounds[0]).abs().max()):.1e}",
        }
        rows.append(row)
    table = Table(
        name="codec_alternatives",
        title=f"Decode {arguments.frames} frames ({audio_s:.2f} s of sound) in one pass, {arguments.cores} cores",
        columns=[
            Column("way", "way"),
            Column("precision", "precision"),
            Column("ready_s", "building it", "s", 1),
            Column("seconds", "time", "s", 3),
            Column("compute_audio", "compute/audio", digits=3),
            Column("ratio", "times faster than upstream"),
            Column("error", "largest error"),
        ],
        rows=rows,
        notes=[
            f"Median (5th-95th percentile) of {arguments.rounds} rounds in which each way ran once; the ratio is the "
            "median of the rounds' ratios.",
            f"Exported in {export_s:.0f} s, for this number of frames only. The largest error is that of a sample "
            "(-1 to 1) against upstream's.",
        ],
    )
    origin = provenance.collect()
    origin["versions"] |= {name: importlib.metadata.version(name) for name in RUNTIMES}
    return Report("codec-alternatives", origin, {"export_s": export_s}, [table])


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="a checkpoint; its speech_tokenizer is read")
    parser.add_argument("--frames", type=int, default=112)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2, help="this many are used, one thread on each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    arguments = parser.parse_args()
    # Before any of the runtimes looks how many there are.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    report = measure(arguments)

    from qwen3_tts_service.bench.report import as_text

    print(as_text(report, terminal=sys.stdout.isatty()))
    if arguments.json:
        report.write_json(arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
