"""Where the two halves run best on this host: placements and precisions, cold and warm, and what to set.

Every combination gets a process of its own, so that "cold" is what the first request after a start meets.
"""

from __future__ import annotations

import itertools
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..checkpoints.load import choose_device, inspect, load
from ..codec.streaming import StreamingDecoder
from ..errors import EngineError, TTSError
from ..speech.request import FRAMES_A_SECOND
from . import provenance
from .codec_suite import signal_to_noise_db
from .observation import endless
from .original import engine_for, speak
from .plan import SENTENCE, CodecDevice, CodecPrecision, Plan
from .report import Cell, Column, Report, Table
from .requests import spoken_by
from .statistics import Spread, spread

_PRECISIONS: tuple[CodecPrecision, ...] = ("fp32", "bf16")
#: Two placements within this share of each other are equal; the one that sounds first is then better.
_EQUAL = 0.05


@dataclass(frozen=True)
class Placement:
    """Settings of the service, by their names."""

    device: str
    dtype: str
    codec_device: CodecDevice
    codec_dtype: CodecPrecision


@dataclass(frozen=True)
class Outcome:
    """One placement: seconds to load and compile, of the first request, of later ones and to their first sound."""

    placement: Placement
    start_s: float
    cold_s: float
    warm_s: Spread
    first_s: Spread
    failure: str = ""


def run(plan: Plan) -> Report:
    """Try the placements that this host has.

    Raises CheckpointError and ConfigurationError as loading does, EngineError when nothing exact works.
    """
    checkpoint = inspect(plan.checkpoint)
    device = choose_device(plan.device)
    outcomes = []
    for placement in placements(device.type, plan.dtype):
        plan.say(_shown(placement))
        outcomes.append(_in_new_process(plan, placement))
    plan.say("what bf16 costs the codec's sound")
    noise_db = codec_noise_db(plan)
    facts: dict[str, Any] = {
        "checkpoint": provenance.of_checkpoint(checkpoint),
        "codec_bf16_snr_db": noise_db,
        "settings": advice(outcomes, noise_db),
    }
    return Report("placement", provenance.collect(), facts, [_table(plan, outcomes)])


def placements(device: str, dtype: str = "auto") -> list[Placement]:
    """Every placement worth a try: a host with a GPU makes frames there, a ``dtype`` that was named is settled."""
    kinds: tuple[CodecDevice, ...] = ("cpu", "gpu") if device == "cuda" else ("cpu",)
    dtypes = ("bf16", "fp32") if dtype == "auto" else (dtype,)
    return [Placement(device, *chosen) for chosen in itertools.product(dtypes, kinds, _PRECISIONS)]


def advice(outcomes: list[Outcome], noise_db: float) -> list[str]:
    """The settings to use, as lines of the environment, and what bf16 would change for the codec.

    Raises EngineError with every placement's failure when none with the codec in fp32 works.
    """
    able = [outcome for outcome in outcomes if not outcome.failure]
    exact = [outcome for outcome in able if outcome.placement.codec_dtype == "fp32"]
    if not exact:
        failures = "; ".join(
            f"{_shown(outcome.placement)}: {outcome.failure}" for outcome in outcomes if outcome.failure
        )
        raise EngineError(f"no placement with the codec in fp32 works on this host: {failures}")
    best = _best(exact)
    chosen = best.placement
    lines = [
        f"QWEN3_TTS_DEVICE={chosen.device}",
        f"QWEN3_TTS_DTYPE={chosen.dtype}",
        f"QWEN3_TTS_CODEC_DEVICE={chosen.codec_device}",
        "QWEN3_TTS_CODEC_DTYPE=fp32",
    ]
    narrow = [outcome for outcome in able if outcome.placement.codec_dtype == "bf16"]
    if narrow:
        other = _best(narrow)
        gain = best.warm_s.median / other.warm_s.median
        lines.append(
            f"# with the codec in bf16, {_shown(other.placement)}: {gain:.2f} times as fast, {noise_db:.0f} dB SNR "
            "with these weights; listen before you set it"
        )
    return lines


def _best(outcomes: list[Outcome]) -> Outcome:
    fastest = min(outcome.warm_s.median for outcome in outcomes)
    equal = [outcome for outcome in outcomes if outcome.warm_s.median <= fastest * (1 + _EQUAL)]
    return min(equal, key=lambda outcome: outcome.first_s.median)


def measure(plan: Plan, codec_dtype: CodecPrecision) -> tuple[float, float, list[float], list[float]]:
    """Start an engine and let it speak: seconds to start, of the first request, of the others, to their sound."""
    request = spoken_by(inspect(plan.checkpoint), SENTENCE, max_frames=plan.frames, seed=0)
    started = time.perf_counter()
    with endless():
        engine = engine_for(plan, codec_dtype=codec_dtype)
    start_s = time.perf_counter() - started
    try:
        cold, *warm = [speak(engine, request) for _ in range(plan.repeats + 1)]
    finally:
        engine.close()
    return start_s, cold.whole_s, [run.whole_s for run in warm], [run.first_s for run in warm]


def codec_noise_db(plan: Plan) -> float:
    """How far the codec's sound in bf16 is from that in fp32, on the checkpoint's weights and random codes."""
    model = load(plan.checkpoint, device="cpu", codec_device="cpu", cpu_threads=plan.cpu_threads)
    decoder: Any = model.upstream.model.speech_tokenizer.model.decoder
    config = decoder.config
    codes = torch.randint(
        0, config.codebook_size, (1, config.num_quantizers, 25), generator=torch.Generator().manual_seed(0)
    )
    sounds = []
    for dtype in (torch.float32, torch.bfloat16):
        built = StreamingDecoder(decoder, dtype=dtype, compile=False)
        sounds.append(built.decode(codes, built.new_state()))
    return signal_to_noise_db(*sounds)


def _in_new_process(plan: Plan, placement: Placement) -> Outcome:
    own = replace(
        plan,
        device=placement.device,
        dtype=placement.dtype,
        codec_device=placement.codec_device,
        # A function that prints does not travel to another process.
        say=_ignore,
    )
    never = Spread(float("inf"), float("inf"), float("inf"), 0)
    # A process that was forked from one with threads and a GPU context would hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            start_s, cold_s, warm, first = pool.submit(measure, own, placement.codec_dtype).result()
        except (TTSError, RuntimeError) as error:
            return Outcome(placement, 0.0, 0.0, never, never, failure=str(error).partition("\n")[0])
    return Outcome(placement, start_s, cold_s, spread(warm), spread(first))


def _ignore(_line: str) -> None:
    return None


def _shown(placement: Placement) -> str:
    return (
        f"frames on {placement.device} in {placement.dtype}, "
        f"codec on {placement.codec_device} in {placement.codec_dtype}"
    )


def _table(plan: Plan, outcomes: list[Outcome]) -> Table:
    audio_s = plan.frames / FRAMES_A_SECOND
    rows: list[dict[str, Cell]] = []
    for outcome in outcomes:
        placement = outcome.placement
        row: dict[str, Cell] = {
            "device": placement.device,
            "dtype": placement.dtype,
            "codec_device": placement.codec_device,
            "codec_dtype": placement.codec_dtype,
            "failure": outcome.failure,
        }
        if not outcome.failure:
            row |= {
                "start_s": outcome.start_s,
                "cold_s": outcome.cold_s,
                "warm_s": outcome.warm_s,
                "first_ms": outcome.first_s.scaled(1e3),
                "compute_audio": outcome.warm_s.median / audio_s,
            }
        rows.append(row)
    return Table(
        name="placements",
        title=f"One sentence, {plan.frames} frames ({audio_s:.2f} s of sound), one at a time",
        columns=[
            Column("device", "frames on"),
            Column("dtype", "in"),
            Column("codec_device", "codec on"),
            Column("codec_dtype", "in"),
            Column("start_s", "load and compile", "s", 1),
            Column("cold_s", "first request", "s"),
            Column("warm_s", "later requests", "s"),
            Column("first_ms", "first sound", "ms", 1),
            Column("compute_audio", "compute/audio", digits=3),
            Column("failure", "failure"),
        ],
        rows=rows,
    )
