"""The codec's decoder alone: codes in, sound out, beside upstream's and the floor of its arithmetic."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..checkpoints.load import LoadedModel, codec_kernels, load
from ..codec.streaming import StreamingDecoder
from ..speech.request import FRAMES_A_SECOND
from . import provenance, rates, upstream
from .floors import CodecFloor
from .plan import Plan
from .report import Cell, Column, Report, Table
from .statistics import Spread, percentile, spread

#: A chunk of several streams, as the service decodes them when it is busy.
_CHUNK = 4
_LARGEST_CHUNK = 16
#: As torch leaves it, and as upstream's users run it.
_BY_TF32 = (
    "Upstream's fp32 convolutions multiply in TF32 on this device: what our fp32 differs by from them is their "
    "rounding (codec_parity compares without)."
)
_REFERENCE = "upstream, whole"


@dataclass(frozen=True)
class _Way:
    """One way to decode: ``run`` returns the sound [batch, samples] and the seconds up to its first frame."""

    name: str
    dtype: torch.dtype
    #: The way it is compared with.
    against: str
    run: Callable[[torch.Tensor], tuple[torch.Tensor, float]]


def growing(frames: int, largest: int = _LARGEST_CHUNK) -> Iterator[int]:
    """Chunks of 1, 2, 4, ... up to ``largest`` frames, ``frames`` in all."""
    chunk = 1
    while frames:
        size = min(chunk, frames)
        yield size
        frames -= size
        chunk = min(2 * chunk, largest)


def even(frames: int, chunk: int) -> Iterator[int]:
    """Chunks of ``chunk`` frames, the last one maybe smaller."""
    while frames:
        yield min(chunk, frames)
        frames -= min(chunk, frames)


def signal_to_noise_db(reference: torch.Tensor, other: torch.Tensor) -> float:
    """How far ``other`` is from ``reference``, in dB; infinite when they are equal."""
    noise = (reference.double() - other.double()).pow(2).mean()
    return float(10 * torch.log10(reference.double().pow(2).mean() / noise)) if noise else float("inf")


def run(plan: Plan) -> Report:
    """Measure the codec of ``plan.checkpoint``. Raises CheckpointError and ConfigurationError as loading does."""
    model = load(
        plan.checkpoint, device=plan.device, codec_device=plan.codec_device, cpu_threads=plan.cpu_threads
    )
    device = model.codec_device
    floor = CodecFloor.of_checkpoint(plan.checkpoint)
    peaks = {dtype: rates.matrix_rate(device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    decoder: Any = model.upstream.model.speech_tokenizer.model.decoder
    cold: dict[str, float] = {}
    ours: dict[torch.dtype, StreamingDecoder] = {}
    codes = _codes(decoder, 1, plan.frames, device)
    left_out: dict[str, str] = {}
    with codec_kernels(device), torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16):
            plan.say(f"our decoder in {_name(dtype)}: building and first decode")
            started = time.perf_counter()
            ours[dtype] = StreamingDecoder(decoder, dtype=dtype, device=device)
            ours[dtype].prepare(_shapes(plan))
            if dtype == torch.bfloat16 and ours[dtype].way == "eager":
                # A processor without bfloat16 products imitates them, a hundred times slower than float32.
                left_out[_name(dtype)] = ours.pop(dtype).reason
                continue
            _whole(ours[dtype], codes)
            cold[_name(dtype)] = time.perf_counter() - started
        ways = list(_ways(plan, decoder, ours, plan.frames, device))
        lone = _measure(plan, ways, codes, peaks, floor)
        together = _batches(plan, model, ours[torch.float32], floor, peaks[torch.float32])
    facts = {
        "checkpoint": provenance.of_checkpoint(model.checkpoint),
        "codec_device": str(device),
        "threads": torch.get_num_threads(),
        "matrix_gflops": {_name(dtype): rate / 1e9 for dtype, rate in peaks.items()},
        "decoder": {_name(dtype): f"{built.way} ({built.reason})" for dtype, built in ours.items()},
        "left_out": left_out,
        "building_and_first_decode_s": cold,
        "operations_a_second_of_sound_gflop": floor.operations(125) / 10 / 1e9,
    }
    return Report("codec", provenance.collect(), facts, [lone, together])


def _name(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]


def _codes(decoder: Any, batch: int, frames: int, device: torch.device) -> torch.Tensor:
    """Random codes [batch, 16, frames]: the time of a decode does not depend on them."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, decoder.config.num_quantizers, frames)
    return torch.randint(0, decoder.config.codebook_size, shape, generator=generator).to(device)


def _shapes(plan: Plan) -> list[tuple[int, int]]:
    """(batch, frames) of every decode below."""
    alone = {plan.frames, *growing(plan.frames), *even(plan.frames, _CHUNK)}
    return [
        *((1, frames) for frames in sorted(alone)),
        *((batch, _CHUNK) for batch in plan.batches if batch > 1),
    ]


def _whole(decoder: StreamingDecoder, codes: torch.Tensor) -> torch.Tensor:
    sound = decoder.decode(codes, decoder.new_state(codes.shape[0]))
    rates.synchronise(decoder.device)
    return sound


def _in_chunks(
    decoder: StreamingDecoder, codes: torch.Tensor, chunks: Iterator[int]
) -> tuple[torch.Tensor, float]:
    state = decoder.new_state(codes.shape[0])
    parts: list[torch.Tensor] = []
    started, first, place = time.perf_counter(), 0.0, 0
    for chunk in chunks:
        parts.append(decoder.decode(codes[..., place : place + chunk], state))
        place += chunk
        if not first:
            rates.synchronise(decoder.device)
            first = time.perf_counter() - started
    return torch.cat(parts, dim=-1), first


def _ways(
    plan: Plan,
    decoder: Any,
    ours: Mapping[torch.dtype, StreamingDecoder],
    frames: int,
    device: torch.device,
) -> Iterator[_Way]:
    """The reference first: all others are compared with one before them."""

    def undivided(module: Any) -> Callable[[torch.Tensor], tuple[torch.Tensor, float]]:
        def decode(codes: torch.Tensor) -> tuple[torch.Tensor, float]:
            started = time.perf_counter()
            sound = module(codes)[:, 0].float()
            rates.synchronise(device)
            return sound, time.perf_counter() - started

        return decode

    yield _Way(_REFERENCE, torch.float32, _REFERENCE, undivided(decoder))
    for chunk in (4, 8, 25) if plan.upstream else ():

        def left_context(codes: torch.Tensor, chunk: int = chunk) -> tuple[torch.Tensor, float]:
            started = time.perf_counter()
            decoder(codes[..., :chunk])
            rates.synchronise(device)
            first = time.perf_counter() - started
            return upstream.decode_in_chunks(decoder, codes, chunk), first

        yield _Way(f"upstream, chunks of {chunk} + 25", torch.float32, _REFERENCE, left_context)
    if plan.upstream and torch.bfloat16 in ours:
        narrow = copy.deepcopy(decoder).to(torch.bfloat16)
        yield _Way(_REFERENCE, torch.bfloat16, _REFERENCE, undivided(narrow))
    for dtype, built in ours.items():

        def whole(codes: torch.Tensor, built: StreamingDecoder = built) -> tuple[torch.Tensor, float]:
            started = time.perf_counter()
            sound = _whole(built, codes)
            return sound, time.perf_counter() - started

        def small(codes: torch.Tensor, built: StreamingDecoder = built) -> tuple[torch.Tensor, float]:
            return _in_chunks(built, codes, even(frames, _CHUNK))

        def grown(codes: torch.Tensor, built: StreamingDecoder = built) -> tuple[torch.Tensor, float]:
            return _in_chunks(built, codes, growing(frames))

        counterpart = f"upstream, chunks of {_CHUNK} + 25" if plan.upstream else _REFERENCE
        yield _Way("ours, whole", dtype, _REFERENCE, whole)
        yield _Way(f"ours, chunks of {_CHUNK}", dtype, counterpart, small)
        yield _Way("ours, chunks of 1-2-4-8-16", dtype, _REFERENCE, grown)


def _measure(
    plan: Plan,
    ways: list[_Way],
    codes: torch.Tensor,
    peaks: Mapping[torch.dtype, float],
    floor: CodecFloor,
) -> Table:
    sounds: list[torch.Tensor] = []
    for way in ways:
        # Warm, and the sound that its precision is judged by.
        sounds.append(way.run(codes)[0].cpu())
    seconds: list[list[float]] = [[] for _ in ways]
    firsts: list[list[float]] = [[] for _ in ways]
    # Round by round, so that a busy moment of the machine hits what is compared alike.
    for number in range(plan.repeats):
        plan.say(f"codec, round {number + 1} of {plan.repeats}")
        for index, way in enumerate(ways):
            started = time.perf_counter()
            _, first = way.run(codes)
            rates.synchronise(codes.device)
            seconds[index].append(time.perf_counter() - started)
            firsts[index].append(first)
    reference = {way.name: index for index, way in reversed(list(enumerate(ways)))}
    operations, audio_s = floor.operations(plan.frames), plan.frames / FRAMES_A_SECOND
    rows: list[dict[str, Cell]] = []
    for index, way in enumerate(ways):
        ratios = [
            theirs / own for theirs, own in zip(seconds[reference[way.against]], seconds[index], strict=True)
        ]
        middle = percentile(seconds[index], 0.5)
        rows.append(
            {
                "way": way.name,
                "dtype": _name(way.dtype),
                "seconds": spread(seconds[index]),
                "compute_audio": middle / audio_s,
                "first_ms": spread(firsts[index]).scaled(1e3),
                "ratio": percentile(ratios, 0.5),
                "against": way.against,
                "peak_percent": 100 * operations / peaks[way.dtype] / middle,
                "snr_db": None if index == 0 else signal_to_noise_db(sounds[0], sounds[index]),
            }
        )
    return Table(
        name="decode",
        title=f"Decode {plan.frames} frames ({audio_s:.2f} s of sound), one stream",
        columns=[
            Column("way", "way"),
            Column("dtype", "precision"),
            Column("seconds", "time", "s", 3),
            Column("compute_audio", "compute/audio", digits=3),
            Column("first_ms", "first sound", "ms", 1),
            Column("ratio", "times faster than"),
            Column("against", "that"),
            Column("peak_percent", "of matrix peak", "%", 0),
            Column("snr_db", "SNR to fp32 whole", "dB", 1),
        ],
        rows=rows,
        notes=[
            "Median (5th-95th percentile) of "
            f"{plan.repeats} rounds in which each way ran once; the ratio is the median of the rounds' ratios "
            "to the fp32 way of that name.",
            f"Floor: {operations / 1e9:.0f} GFLOP, "
            + ", ".join(f"{operations / rate:.3f} s in {_name(dtype)}" for dtype, rate in peaks.items())
            + " at the matrix rates measured in this run.",
            "Upstream's chunks decode 25 frames again before each: approximate, as the SNR shows.",
            *([_BY_TF32] if codes.is_cuda and torch.backends.cudnn.allow_tf32 else []),
        ],
    )


def _batches(
    plan: Plan, model: LoadedModel, decoder: StreamingDecoder, floor: CodecFloor, peak: float
) -> Table:
    """Several streams in one call, in chunks of four frames."""
    theirs: Any = model.upstream.model.speech_tokenizer.model.decoder
    rows: list[dict[str, Cell]] = []
    operations = floor.operations(_CHUNK)
    for batch in plan.batches:
        plan.say(f"codec, {batch} streams together")
        codes = _codes(theirs, batch, _CHUNK, decoder.device)
        state = decoder.new_state(batch)
        decoder.decode(codes, state)
        seconds = []
        for _ in range(max(3, plan.repeats)):
            rates.synchronise(decoder.device)
            started = time.perf_counter()
            decoder.decode(codes, state)
            rates.synchronise(decoder.device)
            seconds.append(time.perf_counter() - started)
        taken: Spread = spread(seconds)
        rows.append(
            {
                "batch": batch,
                "ms": taken.scaled(1e3),
                "compute_audio": taken.median * FRAMES_A_SECOND / (_CHUNK * batch),
                "peak_percent": 100 * batch * operations / peak / taken.median,
            }
        )
    return Table(
        name="decode_batches",
        title=f"Decode {_CHUNK} frames of several streams together, fp32",
        columns=[
            Column("batch", "streams"),
            Column("ms", "one call", "ms", 1),
            Column("compute_audio", "compute/audio", digits=3),
            Column("peak_percent", "of matrix peak", "%", 0),
        ],
        rows=rows,
        plotted=["batch", "compute_audio"],
    )
