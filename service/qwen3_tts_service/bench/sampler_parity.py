"""Does the device choose the codes that plain torch's filters and noise say, and each as often as it should?

A GPU samples by a kernel of ours. Plain torch's filters are transformers' (the tests hold them to it); here the
kernel stands beside them on the device, with random logits and settings. What is drawn may differ where two
candidates are closer than rounding, or where the nucleus ends within it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.load import load
from ..engine import sampling
from ..engine.frame import CODE_GROUPS, FrameModel
from . import provenance
from .plan import Plan
from .report import Cell, Column, Report, Table

_SETTINGS = 50
_ROUNDS = 20
_DRAWS = 100_000
#: Where there is no kernel, to try the script: plain torch takes its time, and the tests draw more.
_DRAWS_BY_PLAIN = 10_000
#: How far apart two candidates may be when the other one is taken, and how far the nucleus' mass may be off.
_ALLOWED, _EDGE = 1e-4, 2e-5
#: Standard deviations that chi-square may be above what it is on average.
_ALLOWED_DEVIATIONS = 4.0
#: Outcomes expected less often are counted together.
_LEAST_EXPECTED = 5.0

#: Logits [settings, tokens] and a codebook: to the code of each row. Settings are those of the model's state.
Sampler = Callable[[Tensor, int], Tensor]


def run(plan: Plan) -> Report:
    """Compare for the first, the second and the last codebook. The report's ``passed`` says whether all held."""
    model = load(plan.checkpoint, device=plan.device, dtype=plan.dtype, cpu_threads=plan.cpu_threads)
    frames = FrameModel(model, slots=_SETTINGS, positions=128, max_trailing=1, release_upstream=True)
    rows: list[dict[str, Cell]] = []
    facts: dict[str, Any] = {"device": str(frames.device)}
    on_gpu = frames.device.type == "cuda"
    sampler = kernel(frames) if on_gpu else partial(plain, frames)
    draws = _DRAWS if on_gpu else _DRAWS_BY_PLAIN
    draw = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for codebook in (0, 1, CODE_GROUPS - 1):
            rows.append(beside_plain(frames, sampler, codebook, draw))
            rows.append(frequencies(frames, sampler, codebook, draw, draws=draws))
            facts["passed"] = all(row["passed"] == "yes" for row in rows)
            report = Report("sampler_parity", provenance.collect(), facts, [_table(rows)])
            for row in rows[-2:]:
                plan.say(report.tables[0].line(row))
            plan.keep(report)
    return report


def kernel(frames: FrameModel) -> Sampler:
    """The GPU's. Folds the norms of ``frames``."""
    # Here, because Triton is only there where torch was built for a GPU.
    from ..engine.gpu_frame import GPUFrame

    kernels = GPUFrame(frames)

    def sample(logits: Tensor, codebook: int) -> Tensor:
        table = frames.first_input if codebook == 0 else frames.inputs[codebook - 1]
        kernels._sample(logits, codebook, table, len(logits))
        return kernels._codes[: len(logits), codebook].long()

    return sample


def plain(frames: FrameModel, logits: Tensor, codebook: int) -> Tensor:
    """As a frame in plain torch samples."""
    state = frames.state
    return sampling.sample(
        _restricted(frames, logits, codebook),
        **_filters(frames, codebook),
        greedy=state.greedy,
        key=sampling.frame_key(state.seed, state.step),
        codebook=codebook,
    )


def _tokens(frames: FrameModel, codebook: int) -> int:
    return int((frames.embedding if codebook == 0 else frames.embeddings[codebook - 1]).shape[0])


def beside_plain(
    frames: FrameModel, sampler: Sampler, codebook: int, draw: torch.Generator
) -> dict[str, Cell]:
    """Rounds of random settings and logits; every code is plain torch's, or as good within rounding."""
    equal, largest, held = 0, 0.0, True
    for _ in range(_ROUNDS):
        _settings(frames, draw)
        size = torch.rand(_SETTINGS, 1, generator=draw) * 5 + 0.5
        logits = (torch.randn(_SETTINGS, _tokens(frames, codebook), generator=draw) * size).to(frames.device)
        codes = sampler(logits, codebook)
        races = torch.stack([_race(frames, logits, codebook, edge=edge) for edge in (0.0, -_EDGE, _EDGE)])
        equal += int((races[0].argmax(-1) == codes).sum())
        taken = races.gather(2, codes.expand(len(races), -1)[..., None])[..., 0]
        gap = float((races.max(-1).values - taken).min(0).values.max())
        largest, held = max(largest, gap), held and gap <= _ALLOWED
    return {
        "what": "beside plain torch",
        "codebook": codebook,
        "draws": _ROUNDS * _SETTINGS,
        "equal": equal,
        "gap": largest,
        "passed": "yes" if held else "NO",
    }


def frequencies(
    frames: FrameModel, sampler: Sampler, codebook: int, draw: torch.Generator, *, draws: int
) -> dict[str, Cell]:
    """How often each code is drawn from the same logits by different seeds, against its probability."""
    _one_setting(frames, draw)
    logits = torch.randn(1, _tokens(frames, codebook), generator=draw).mul(2).to(frames.device)
    logits = logits.expand(_SETTINGS, -1).contiguous()
    counts = torch.zeros(logits.shape[1], dtype=torch.int64, device=frames.device)
    for first in range(0, draws, _SETTINGS):
        frames.state.seed.copy_(torch.arange(first, first + _SETTINGS))
        counts += sampler(logits, codebook).bincount(minlength=len(counts))
    expected = _kept(frames, logits, codebook)[0].softmax(-1).double() * counts.sum()
    often = expected >= _LEAST_EXPECTED
    pairs = torch.stack((counts.double(), expected))
    rest = pairs[:, ~often].sum(1, keepdim=True)
    # What must not be drawn at all has no place in chi-square: one of it is wrong.
    never = int(counts[expected == 0].sum())
    seen, wanted = torch.cat((pairs[:, often], rest[:, rest[1] > 0]), 1)
    freedom = len(seen) - 1
    deviations = float(((seen - wanted).square() / wanted).sum() - freedom) / math.sqrt(2 * freedom)
    return {
        "what": "frequencies",
        "codebook": codebook,
        "draws": int(counts.sum()),
        "outcomes": len(seen),
        "deviations": deviations,
        "passed": "yes" if deviations <= _ALLOWED_DEVIATIONS and not never else "NO",
    }


def _settings(frames: FrameModel, draw: torch.Generator) -> None:
    """Another setting in every row."""
    state = frames.state

    def among(*values: float) -> Tensor:
        return torch.tensor(values)[torch.randint(len(values), (_SETTINGS,), generator=draw)]

    state.step.copy_(among(0, 1, 2, 700))
    state.seed.copy_(torch.randint(1 << 62, (_SETTINGS,), generator=draw))
    state.greedy.copy_(among(0, 0, 0, 1))
    for name in ("temperature", "subtalker_temperature"):
        getattr(state, name).copy_(torch.rand(_SETTINGS, generator=draw) * 2.4 + 0.1)
    for name in ("top_k", "subtalker_top_k"):
        getattr(state, name).copy_(among(0, 1, 2, 50, 400))
    for name in ("top_p", "subtalker_top_p"):
        getattr(state, name).copy_(among(1.0, 0.99, 0.9, 0.5, 0.05))
    state.repetition_penalty.copy_(among(1.0, 1.05, 1.7, 0.8))
    state.seen.copy_(torch.rand(state.seen.shape, generator=draw) < 0.02)


def _one_setting(frames: FrameModel, draw: torch.Generator) -> None:
    """The same in every row, but for the seed, which is left."""
    state = frames.state
    state.step.fill_(7)
    state.greedy.fill_(False)
    state.seen.copy_(torch.rand(state.seen.shape[1], generator=draw) < 0.02)
    for name, value in (("temperature", 0.9), ("top_k", 50), ("top_p", 0.95)):
        getattr(state, name).fill_(value)
        getattr(state, f"subtalker_{name}").fill_(value)
    state.repetition_penalty.fill_(1.05)


def _restricted(frames: FrameModel, logits: Tensor, codebook: int) -> Tensor:
    state = frames.state
    if codebook:
        return logits
    return sampling.restrict(
        logits,
        seen=state.seen,
        penalty=state.repetition_penalty,
        step=state.step,
        suppressed=frames.suppressed,
        eos=frames.eos,
    )


def _filters(frames: FrameModel, codebook: int) -> dict[str, Tensor]:
    """Each row's, as :func:`.sampling.process` takes them."""
    prefix = "subtalker_" if codebook else ""
    return {name: getattr(frames.state, f"{prefix}{name}") for name in ("temperature", "top_k", "top_p")}


def _kept(frames: FrameModel, logits: Tensor, codebook: int, *, edge: float = 0.0) -> Tensor:
    """What plain torch's filters leave; the nucleus is larger by ``edge``."""
    filters = _filters(frames, codebook)
    top_p = filters["top_p"]
    filters["top_p"] = torch.where(top_p < 1.0, (top_p + edge).clamp(max=1.0 - 1e-7), top_p)
    return sampling.process(_restricted(frames, logits, codebook), **filters)


def _race(frames: FrameModel, logits: Tensor, codebook: int, *, edge: float = 0.0) -> Tensor:
    """What plain torch takes the largest of, [settings, tokens]."""
    state = frames.state
    noise = sampling.uniform(sampling.frame_key(state.seed, state.step), codebook, logits.shape[1])
    race = _kept(frames, logits, codebook, edge=edge) - torch.log(-torch.log(noise))
    return torch.where(state.greedy[:, None], _restricted(frames, logits, codebook), race)


def _table(rows: list[dict[str, Cell]]) -> Table:
    return Table(
        name="sampler_parity",
        title=f"The device's sampling beside plain torch's, {_SETTINGS} random settings at a time",
        columns=[
            Column("what", "what"),
            Column("codebook", "codebook"),
            Column("draws", "draws"),
            Column("equal", "equal codes"),
            Column("gap", "largest gap", digits=7),
            Column("outcomes", "outcomes"),
            Column("deviations", "chi-square above its mean, in deviations"),
            Column("passed", "holds"),
        ],
        rows=rows,
        notes=[
            f"Gap: by how much the code taken is behind plain torch's best; allowed {_ALLOWED:g}, the edge of the "
            f"nucleus uncertain by {_EDGE:g}. Chi-square: allowed {_ALLOWED_DEVIATIONS:g} deviations above its mean.",
        ],
    )
