"""Does this device say what upstream says, and the same whatever happens around it? For machines with a GPU.

The tests ask the same on the CPU with a tiny geometry; here it is asked of a real one, on the device, with the
engine as it is served: captured, launched ahead. Every finding is told as soon as it is there.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..checkpoints.load import LoadedModel, load
from ..engine import sampling as draw
from ..engine.frame import FrameModel
from ..engine.prompt import Prompt, PromptBuilder
from ..engine.reference import ReferenceEngine
from ..engine.verification import TOLERANCES
from ..speech.request import Sampling
from . import provenance
from .observation import endless
from .plan import SENTENCE, Plan
from .report import Cell, Column, Report, Table
from .requests import spoken_by
from .schedules import Codes, CountingRunner, Voice, alone, crowd, day, request
from .statistics import spread

#: Two scores of the same candidate are the same up to here (float32); codes may part when the two best
#: candidates are closer than twice that. In bfloat16 a score has 8 bits: the bound is relative to their spread.
_TOLERANCE = 1e-4
_TOLERANCE_BF16 = 0.1
#: Upstream takes longer for each of them than everything else here: two, of different lengths.
_TEXTS = (SENTENCE, "The quick brown fox jumps over the lazy dog, twice.")
_SAMPLINGS = (
    Sampling(),
    Sampling(greedy=True),
    Sampling(temperature=1.3, top_k=0, top_p=0.8, repetition_penalty=1.3, subtalker_top_k=5),
)
_GREEDY = Sampling(greedy=True)
_DAYS = 3
#: A prompt, the longest of these speeches, and a little.
_POSITIONS = 512


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
        plan.say(f"{dtype}: upstream's greedy speech")
        expected = [_upstreams(model, text, plan.frames) for text in _TEXTS]
        plan.say(f"{dtype}: compiling")
        frames = FrameModel(model, slots=max(plan.batches), positions=_POSITIONS)
    runner = CountingRunner(frames, capture_prompts=dtype == "bf16")
    facts[f"ways_{dtype}"] = {str(batch): str(way) for batch, way in runner.ways().items()}
    facts[f"slower_ways_because_{dtype}"] = {str(batch): why for batch, why in runner.reasons().items()}
    builder = PromptBuilder(model)
    prompts = [builder.build(spoken_by(model.checkpoint, text)) for text in _TEXTS]
    yield _scores_compared(dtype, runner, prompts[0], expected[0])
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


def _upstreams(model: LoadedModel, text: str, frames: int) -> _Upstreams:
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
        codes = engine.codes(spoken_by(model.checkpoint, text, max_frames=frames), greedy=True)
    scores = [[score.cpu() for score in frame] for frame in drawn[: len(codes)]]
    return _Upstreams(codes.cpu().numpy().astype(np.int32), scores)


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
    """How far our scores are from upstream's, of every codebook, up to the first other code."""
    errors: list[float] = []
    frames = 0
    for frame, (codes, scores) in enumerate(_spoken_with_scores(runner, prompt, len(expected.codes))):
        alike = 0
        while alike < 16 and codes[alike] == expected.codes[frame, alike]:
            alike += 1
        for ours, theirs in zip(scores[: alike + 1], expected.scores[frame], strict=False):
            possible = theirs.isfinite()
            difference = ours[possible] - theirs[possible]
            errors.append(float(difference.pow(2).mean().sqrt() / theirs[possible].std()))
        if alike < 16:
            break
        frames += 1
    allowed = TOLERANCES[runner.model.dtype]
    return {
        "what": "scores, alone",
        "dtype": dtype,
        "runs": 1,
        "frames": len(expected.codes),
        "equal": frames,
        "first_difference": None if frames == len(expected.codes) else frames,
        "error": spread(errors),
        "worst": max(errors),
        "allowed": allowed,
        "passed": "yes" if max(errors) <= allowed else "NO",
    }


def _spoken_with_scores(
    runner: CountingRunner, prompt: Prompt, frames: int
) -> Iterator[tuple[Codes, list[torch.Tensor]]]:
    """Greedy frames one at a time: codes [16] and each codebook's scores as its choice saw them."""
    model = runner.model
    runner.admit(0, prompt, _GREEDY, 0, frames)
    seen = torch.zeros(1, model.embedding.shape[0], dtype=torch.bool, device=model.device)
    by_kernels = model.device.type == "cuda" and runner.ways()[1] != "eager"
    recorded: list[torch.Tensor] = []
    sample = model.sample_fn

    def record(logits: torch.Tensor, **settings: Any) -> torch.Tensor:
        recorded.append(logits[0].float().cpu())
        return sample(logits, **settings)

    if not by_kernels:
        model.sample_fn = record
    try:
        for step in range(frames):
            recorded.clear()
            codes = runner.launch(1, [True]).read().codes[0]
            if by_kernels:
                first, *others = (logits[:1].clone() for logits in runner._kernels.newest_logits())
                first = draw.restrict(
                    first.float(),
                    seen=seen,
                    penalty=torch.tensor([_GREEDY.repetition_penalty], device=model.device),
                    step=torch.tensor([step], device=model.device),
                    suppressed=model.suppressed,
                    eos=model.eos,
                )
                recorded.extend(logits[0].float().cpu() for logits in (first, *others))
                seen[0, int(codes[0])] = True
            yield codes, list(recorded)
    finally:
        model.sample_fn = sample


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
    allowed = 2 * (_TOLERANCE if dtype == "fp32" else _TOLERANCE_BF16)
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
            "fp32: codes may part where upstream's two candidates are closer than twice 1e-4.",
            "bf16: the distance is in standard deviations of the scores.",
        ],
    )
