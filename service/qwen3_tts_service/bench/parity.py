"""Does this device say what upstream says, and the same whatever happens around it? For machines with a GPU.

The tests ask the same on the CPU with a tiny geometry; here it is asked of a real one, on the device, with the
engine as it is served: captured, launched ahead. Every finding is told as soon as it is there.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..checkpoints.load import LoadedModel, load
from ..engine import requests as reading
from ..engine import sampling as draw
from ..engine.frame import FrameModel
from ..engine.prompt import Prompt, PromptBuilder
from ..engine.reference import ReferenceEngine
from ..native import default_directory
from ..speech.request import Sampling, SpeechRequest
from . import provenance
from .observation import endless
from .plan import SENTENCE, Plan
from .report import Cell, Column, Report, Table
from .requests import request_of_length, spoken_by
from .schedules import Codes, CountingRunner, Voice, alone, crowd, day, request
from .statistics import spread

#: Two scores of the same candidate are the same up to here; codes may part when the two best candidates are
#: closer than twice that. In bfloat16 a score has 8 bits: the bound is relative to their spread.
_TOLERANCES = {"fp32": 1e-4, "bf16": 0.1}
#: Upstream takes longer for each of them than everything else here: two, of different lengths.
_TEXTS = (SENTENCE, "The quick brown fox jumps over the lazy dog, twice.")
_SAMPLINGS = (
    Sampling(),
    Sampling(greedy=True),
    Sampling(temperature=1.3, top_k=0, top_p=0.8, repetition_penalty=1.3, subtalker_top_k=5),
)
_GREEDY = Sampling(greedy=True)
_DAYS = 3
#: Frames at the end of a slot, behind a prompt that fills it: upstream takes a fifth of a second for each.
_LAST_FRAMES = 24


def run(plan: Plan) -> Report:
    """Compare in ``plan.dtype``, or in float32 and bfloat16 where it is ``auto``.

    In a full batch of the largest of ``plan.batches``. The report's ``passed`` says whether all held.
    """
    facts: dict[str, Any] = {}
    rows: list[dict[str, Cell]] = []

    def report() -> Report:
        return Report("parity", provenance.collect(), facts, [_table(rows)])

    # TensorFloat-32 would round the factors of matrix products to 10 bits.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    for dtype in ("fp32", "bf16") if plan.dtype == "auto" else (plan.dtype,):
        for row in _findings(plan, dtype, facts):
            rows.append(row)
            facts["passed"] = all(row["passed"] == "yes" for row in rows)
            plan.say(_table(rows).line(row))
            plan.keep(report())
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return report()


def _findings(plan: Plan, dtype: str, facts: dict[str, Any]) -> Iterator[dict[str, Cell]]:
    plan.say(f"{dtype}: loading")
    with endless():
        model = load(plan.checkpoint, device=plan.device, dtype=dtype, cpu_threads=plan.cpu_threads)
        builder = PromptBuilder(model)
        plan.say(f"{dtype}: upstream's greedy speech")
        asked = [spoken_by(model.checkpoint, text, max_frames=plan.frames) for text in _TEXTS]
        prompts = [builder.build(one) for one in asked]
        expected = [_upstreams(model, one) for one in asked]
        plan.say(f"{dtype}: upstream's at the end of a slot")
        far = _at_the_end(model, builder, plan.slot_positions, min(_LAST_FRAMES, plan.frames))
        plan.say(f"{dtype}: compiling")
        frames = FrameModel(
            model, slots=max(plan.batches), positions=plan.slot_positions, kernels=default_directory()
        )
    runner = CountingRunner(frames, capture_prompts=dtype == "bf16")
    facts[f"ways_{dtype}"] = {str(batch): str(way) for batch, way in runner.ways().items()}
    facts[f"slower_ways_because_{dtype}"] = {str(batch): why for batch, why in runner.reasons().items()}
    yield _scores_compared(dtype, runner, prompts[0], expected[0])
    yield _scores_compared(dtype, runner, *far)
    lone = [alone(runner, request(prompt, _GREEDY, 0, plan.frames)) for prompt in prompts]
    yield _compared("greedy, alone", dtype, lone, expected)
    many = [
        request(prompts[number % len(prompts)], _GREEDY, number, plan.frames)
        for number in range(runner.slots)
    ]
    spoken = crowd(runner, many)
    yield _compared(f"greedy, {len(spoken)} at once", dtype, spoken, expected)
    yield _undisturbed(runner, prompts, plan.frames, dtype)


@dataclass(frozen=True)
class _Upstreams:
    """Greedy speech: codes [frames, 16] and the scores [frames][16] of all candidates behind each."""

    codes: Codes
    scores: list[list[torch.Tensor]]


def _upstreams(model: LoadedModel, asked: SpeechRequest) -> _Upstreams:
    engine = ReferenceEngine(model)
    talker: Any = model.upstream.model.talker
    drawn: list[list[torch.Tensor]] = []

    def of_talker(_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        drawn.append([scores[0].float()])
        return scores

    def of_predictor(_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        drawn[-1].append(scores[0].float())
        return scores

    with last_processor(talker, of_talker), last_processor(talker.code_predictor, of_predictor):
        codes = engine.codes(asked, greedy=True)
    scores = [[score.cpu() for score in frame] for frame in drawn[: len(codes)]]
    return _Upstreams(codes.cpu().numpy().astype(np.int32), scores)


def _at_the_end(
    model: LoadedModel, builder: PromptBuilder, positions: int, frames: int
) -> tuple[Prompt, _Upstreams]:
    """A prompt that fills a slot of ``positions`` but for ``frames``, or a word more, and what follows it."""
    with _requests_of(positions):
        # The first frame stands at the prompt's last position.
        asked = request_of_length(builder, model.checkpoint, positions - frames + 1)
        return builder.build(asked), _upstreams(model, replace(asked, max_frames=frames))


@contextmanager
def _requests_of(positions: int) -> Iterator[None]:
    """Requests in this block may take so many.

    Behind the longest that is served, upstream would speak for minutes until a slot is full.
    """
    served = reading.MAX_POSITIONS
    reading.MAX_POSITIONS = positions
    try:
        yield
    finally:
        reading.MAX_POSITIONS = served


@contextmanager
def last_processor(generator: Any, processor: Any) -> Iterator[None]:
    """Put ``processor`` behind those that generate makes for itself."""
    own = generator._get_logits_processor

    def with_ours(**arguments: Any) -> Any:
        processors = own(**arguments)
        processors.append(processor)
        return processors

    generator._get_logits_processor = with_ours
    try:
        yield
    finally:
        del generator._get_logits_processor


def _scores_compared(
    dtype: str, runner: CountingRunner, prompt: Prompt, expected: _Upstreams
) -> dict[str, Cell]:
    """How far our scores are from upstream's, of every codebook of every frame, when its codes are spoken."""
    spoken = _forced(runner, prompt, expected.codes)
    errors: list[float] = []
    for (_, scores), wanted in zip(spoken, expected.scores, strict=True):
        for ours, theirs in zip(scores, wanted, strict=True):
            possible = theirs.isfinite()
            difference = ours[possible] - theirs[possible]
            errors.append(float(difference.pow(2).mean().sqrt() / theirs[possible].std()))
    place = _parting(np.stack([codes for codes, _ in spoken]), expected.codes)
    frames, first = len(expected.codes), len(prompt.embeds) - 1
    allowed = _TOLERANCES[dtype]
    return {
        "what": f"scores on upstream's codes, positions {first} to {first + frames - 1}",
        "dtype": dtype,
        "runs": 1,
        "frames": frames,
        "equal": frames if place is None else place[0],
        "first_difference": None if place is None else place[0],
        "error": spread(errors),
        "worst": max(errors),
        "allowed": allowed,
        # Each by itself: the largest of numbers and NaN may be a number.
        "passed": "yes" if all(error <= allowed for error in errors) else "NO",
    }


def _forced(runner: CountingRunner, prompt: Prompt, spoken: Codes) -> list[tuple[Codes, list[torch.Tensor]]]:
    """Frames that go on from the codes ``spoken`` [frames, 16], whatever is chosen.

    For each our greedy choice [16], and each codebook's scores as the choice saw them.
    """
    model, seen = runner.model, runner.model.state.seen
    by_kernels = model.device.type == "cuda" and runner.ways()[1] != "eager"
    frames: list[tuple[Codes, list[torch.Tensor]]] = []
    recorded: list[torch.Tensor] = []
    sample = model.sample_fn

    def record(logits: torch.Tensor, **settings: Any) -> torch.Tensor:
        recorded.append(logits[0].float().cpu())
        return sample(logits, **settings)

    if not by_kernels:
        model.sample_fn = record
    runner.admit(0, prompt, _GREEDY, 0, len(spoken))
    try:
        # On the frames' stream, so that what is changed between two of them is changed in its turn.
        with runner._own_stream(), torch.inference_mode(), _forcing(model) as force:
            for step, wanted in enumerate(spoken):
                before = seen[:1].clone()
                force(wanted)
                codes = runner.launch(1, [True]).read().codes[0]
                if by_kernels:
                    first, *others = (logits[:1] for logits in runner._kernels.newest_logits())
                    first = draw.restrict(
                        first.float(),
                        seen=before,
                        penalty=torch.tensor([_GREEDY.repetition_penalty], device=model.device),
                        step=torch.tensor([step], device=model.device),
                        suppressed=model.suppressed,
                        eos=model.eos,
                    )
                    recorded.extend(logits[0].float().cpu() for logits in (first, *others))
                if codes[0] != wanted[0]:
                    seen[0, int(codes[0])] = before[0, int(codes[0])]
                    seen[0, int(wanted[0])] = True
                frames.append((codes, recorded.copy()))
                recorded.clear()
    finally:
        model.sample_fn = sample
    return frames


@contextmanager
def _forcing(model: FrameModel) -> Iterator[Callable[[Sequence[int]], None]]:
    """A function that has the coming frame go on from the codes [16] that it is given.

    Meanwhile every row of a codebook's embeddings is that of the code: a graph chooses and reads as ever.
    """
    tables = [(0, model.embedding), (0, model.first_input)]
    for later in (model.embeddings, model.inputs):
        tables.extend(enumerate(later, start=1))
    kept = [table.clone() for _, table in tables]

    def force(codes: Sequence[int]) -> None:
        for (codebook, table), rows in zip(tables, kept, strict=True):
            table.copy_(rows[int(codes[codebook])])

    try:
        yield force
    finally:
        for (_, table), rows in zip(tables, kept, strict=True):
            table.copy_(rows)


def _compared(what: str, dtype: str, spoken: list[Codes], expected: list[_Upstreams]) -> dict[str, Cell]:
    """How far speech equals upstream's, and how close the candidates were where it parted."""
    equal, total, widest, closest = 0, 0, 0.0, None
    for number, codes in enumerate(spoken):
        theirs = expected[number % len(expected)]
        total += len(theirs.codes)
        place = _parting(codes, theirs.codes)
        if place is None:
            equal += len(theirs.codes)
            continue
        frame, codebook = place
        equal += frame
        gap = float("inf")
        if frame < min(len(codes), len(theirs.codes)):
            scores = theirs.scores[frame][codebook]
            gap = float(scores[theirs.codes[frame, codebook]] - scores[codes[frame, codebook]])
            if dtype == "bf16":
                gap /= float(scores[scores.isfinite()].std())
        widest = max(widest, gap)
        closest = frame if closest is None else min(closest, frame)
    allowed = 2 * _TOLERANCES[dtype]
    return {
        "what": what,
        "dtype": dtype,
        "runs": len(spoken),
        "frames": total,
        "equal": equal,
        "first_difference": closest,
        "gap": widest if closest is not None else None,
        "allowed": allowed,
        "passed": "yes" if widest <= allowed else "NO",
    }


def _parting(codes: Codes, expected: Codes) -> tuple[int, int] | None:
    """Frame and codebook of the first difference; None when there is none."""
    length = min(len(codes), len(expected))
    different = np.argwhere(codes[:length] != expected[:length])
    if len(different):
        return int(different[0][0]), int(different[0][1])
    return None if len(codes) == len(expected) else (length, 0)


def _undisturbed(runner: CountingRunner, prompts: list[Prompt], frames: int, dtype: str) -> dict[str, Cell]:
    """Voices that pause, move and have neighbours come and go say what they say alone."""
    voices = []
    for number, prompt in enumerate(prompts):
        for offset, sampling in enumerate(_SAMPLINGS):
            asked = request(prompt, sampling, 10 * number + offset, max(8, frames // (1 + offset)))
            voices.append(Voice(asked, alone(runner, asked)))
    copies = max(2, -(-2 * runner.slots // len(voices)))
    runner.launched = Counter()
    equal, total, runs, first, pauses, moves = 0, 0, 0, None, 0, 0
    for number in range(_DAYS):
        lived = day(runner, voices * copies, random.Random(number))  # noqa: S311 - a schedule, no secret
        pauses, moves, runs = pauses + lived.pauses, moves + lived.moves, runs + len(lived.spoken)
        for voice, codes in lived.spoken:
            # Who was given up has said the beginning.
            place = _parting(codes, voice.codes[: len(codes)])
            total += len(codes)
            equal += len(codes) if place is None else place[0]
            if place is not None:
                first = place[0] if first is None else min(first, place[0])
    sizes = ", ".join(str(batch) for batch in sorted(runner.launched))
    # Our kernels add up in an order that knows no neighbours. Other ways do so in float32 only to rounding.
    judged = dtype == "fp32" or ("eager" not in runner.ways().values() and not runner.computes_at_launch)
    return {
        "what": f"sampled, {_DAYS} random schedules, {pauses} pauses, {moves} moves, batches of {sizes}",
        "dtype": dtype,
        "runs": runs,
        "frames": total,
        "equal": equal,
        "first_difference": first,
        "passed": "yes" if equal == total or not judged else "NO",
    }


def _table(rows: list[dict[str, Cell]]) -> Table:
    return Table(
        name="parity",
        title="Codes and scores of this engine beside upstream's, and codes beside those of the lone run",
        columns=[
            Column("what", "what"),
            Column("dtype", "precision"),
            Column("runs", "runs"),
            Column("frames", "frames"),
            Column("equal", "equal up to the first difference"),
            Column("first_difference", "first at frame"),
            Column("error", "error of scores", digits=7),
            Column("worst", "worst", digits=7),
            Column("gap", "candidates apart there", digits=6),
            Column("allowed", "allowed", digits=6),
            Column("passed", "holds"),
        ],
        rows=rows,
        notes=[
            "Error: root mean square of the difference of a codebook's scores over their standard deviation.",
            "On upstream's codes: each codebook and frame follows upstream's choice, whatever ours was.",
            "fp32: codes may part where upstream's two candidates are closer than twice 1e-4.",
            "bf16: the distance is in standard deviations of the scores.",
        ],
    )
