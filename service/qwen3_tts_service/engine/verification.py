"""Does a faster way compute what plain torch computes? One frame on a fixed prompt, compared all the way.

Compilers and graphs that go wrong raise nothing: they speak noise. So every batch size runs once from a fixed
prompt, which is read once, and every row of it is held against what plain torch computed for a row alone: the
keys and values of every layer, the logits of every codebook, and the codes, which may only differ where two
candidates are nearly equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..errors import SelfCheckFailed
from ..speech.request import Sampling
from .frame import FrameModel, FrameState

#: Largest error: root mean square of the difference over that of the expected values. Two ways of the same
#: arithmetic differ by rounding and the order of summation; unrelated values give 1.4.
TOLERANCES = {torch.bfloat16: 0.1, torch.float16: 0.1, torch.float32: 0.005}
_PROMPT_POSITIONS = 24
_MAX_FRAMES = 8


@dataclass(frozen=True)
class FixedPrompt:
    """What a check speaks, whatever the checkpoint."""

    embeds: Tensor  # [positions, hidden]
    trailing: Tensor  # [n, hidden]


@dataclass(frozen=True)
class Expected:
    """One frame as plain torch computes it, and what it began with."""

    start: FrameState  # one row: the slot when the prompt was read
    prompt: Tensor  # keys and values that reading it left: [layers, 2, kv_heads, positions, head_dim]
    talker: Tensor  # keys and values of the frame's position: [layers, 2, kv_heads, head_dim]
    predictor: Tensor  # [layers, 2, kv_heads, 16, head_dim]
    codes: list[int]
    logits: list[Tensor]  # of each codebook [tokens], before the choice


def expected(model: FrameModel, length: int) -> Expected:
    """Compute the fixed frame in slot 0 with ``model.frame``. ``length`` as there."""
    ids = torch.arange(_PROMPT_POSITIONS, device=model.device) * 37 % model.embedding.shape[0]
    # Rows of the embedding table, whatever the checkpoint.
    prompt = FixedPrompt(model.embedding[ids] + model.pad, model.embedding[ids[:1]])
    model.admit(0, prompt, Sampling(greedy=True), 0, _MAX_FRAMES)
    state = model.state.rows(1)
    start = FrameState(**{field.name: getattr(state, field.name).clone() for field in fields(state)})
    read = model.talker.cache.whole[:, :, 0, :, :_PROMPT_POSITIONS].clone()
    logits = _recorded(model, model.frame, 1, length)
    talker, predictor = _computed(model, 0)
    return Expected(start, read, talker, predictor, state.codes[0].tolist(), [row[0] for row in logits])


def verify(
    model: FrameModel,
    frame: Callable[[int, int], None],
    batch: int,
    length: int,
    expected: Expected,
    *,
    logits_of: Callable[[], Sequence[Tensor]] | None = None,
) -> float:
    """Run the fixed frame in ``batch`` rows; the largest error of all rows.

    ``logits_of`` returns each codebook's logits [rows, tokens] of the frame that was run, for frames that do
    not sample by ``model.sample_fn``. Raises SelfCheckFailed when a row computes something else than
    ``expected``, NaN included.
    """
    _begin(model, batch, expected)
    if logits_of is None:
        logits: Sequence[Tensor] = _recorded(model, frame, batch, length)
    else:
        frame(batch, length)
        logits = logits_of()
    return max(_error_of_row(model, row, batch, logits, expected) for row in range(batch))


def _recorded(model: FrameModel, frame: Callable[[int, int], None], batch: int, length: int) -> list[Tensor]:
    """Run ``frame``; each codebook's logits [batch, tokens] as ``model.sample_fn`` got them."""
    recorded: list[Tensor] = []
    sample = model.sample_fn

    def record(logits: Tensor, **settings: Any) -> Tensor:
        recorded.append(logits.clone())
        return sample(logits, **settings)

    model.sample_fn = record
    try:
        frame(batch, length)
    finally:
        model.sample_fn = sample
    return recorded


def verify_prefill(model: FrameModel, prefill: Callable[[int, Tensor], None], length: int) -> None:
    """Read a prompt of ``length`` positions by ``prefill`` and by plain torch, both into slot 0.

    What plain torch left there waits in the host's memory, and the device holds a few copies of one layer's keys
    and values: of the whole slot's they would be gigabytes that nothing needs afterwards. Raises
    SelfCheckFailed when the keys and values differ.
    """
    ids = torch.arange(length, device=model.device) * 41 % model.embedding.shape[0]
    embeds = model.embedding[ids]
    layers = [layer[:, 0, :, :length] for layer in model.talker.cache.whole]
    model.prefill(0, embeds)
    wanted = [layer.to("cpu", copy=True) for layer in layers]
    # Else what plain torch wrote would pass for the work of a graph that writes nothing.
    model.talker.cache.clear(0)
    prefill(0, embeds)
    error = _error_over_layers(layers, wanted)
    if not error <= TOLERANCES[model.dtype]:
        raise SelfCheckFailed(
            f"a prompt of {length} positions is read differently by a graph: relative error {error:.3g}, "
            f"allowed {TOLERANCES[model.dtype]:g}"
        )


def clear(model: FrameModel) -> None:
    """Leave no slot behind that a frame would advance."""
    model.state.active.fill_(False)


def _begin(model: FrameModel, rows: int, expected: Expected) -> None:
    """Put the first ``rows`` slots where they are when they have read the fixed prompt."""
    for slot in range(rows):
        # What another way left there may be anything.
        model.talker.cache.clear(slot)
        model.predictor.cache.clear(slot)
        model.talker.cache.whole[:, :, slot, :, :_PROMPT_POSITIONS] = expected.prompt
        for field in fields(model.state):
            getattr(model.state, field.name)[slot] = getattr(expected.start, field.name)[0]


def _computed(model: FrameModel, row: int) -> tuple[Tensor, Tensor]:
    talker = model.talker.cache.whole[:, :, row, :, _PROMPT_POSITIONS - 1].float().cpu()
    return talker, model.predictor.cache.whole[:, :, row].float().cpu()


def _error_of_row(
    model: FrameModel, row: int, batch: int, logits: Sequence[Tensor], expected: Expected
) -> float:
    tolerance = TOLERANCES[model.dtype]
    where = f"in row {row} of {batch} on {model.device} in {str(model.dtype).removeprefix('torch.')}"
    talker, predictor = _computed(model, row)
    codes: list[int] = model.state.codes[row].tolist()
    alike = next((book for book in range(len(codes)) if codes[book] != expected.codes[book]), len(codes))
    # The code of book n stands at the predictor's position n + 1, and the last one at none.
    positions = min(alike + 1, predictor.shape[3])
    errors = {
        "talker": _error(talker, expected.talker),
        "code predictor": _error(predictor[:, :, :, :positions], expected.predictor[:, :, :, :positions]),
    }
    # Behind the first other code everything differs, and rightly.
    for book, wanted in enumerate(expected.logits[: alike + 1]):
        possible = wanted.isfinite()
        difference = logits[book][row][possible].float() - wanted[possible].float()
        errors[f"head of codebook {book}"] = float(difference.pow(2).mean().sqrt() / wanted[possible].std())
    if alike < len(codes):
        wanted = expected.logits[alike]
        gap = wanted[expected.codes[alike]] - wanted[codes[alike]]
        errors[f"choice of codebook {alike}"] = float(gap / wanted[wanted.isfinite()].std())
    for part, error in errors.items():
        # Written so that NaN fails too.
        if not error <= tolerance:
            raise SelfCheckFailed(
                f"the {part} computes something else than plain torch {where}: relative error {error:.3g}, "
                f"allowed {tolerance:g}"
            )
    return max(errors.values())


def _error(computed: Tensor, wanted: Tensor) -> float:
    return float((computed - wanted).pow(2).mean().sqrt() / wanted.pow(2).mean().sqrt())


def _error_over_layers(computed: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """:func:`_error` of all layers together, of which the device holds one at a time in float32."""
    squares = torch.zeros(2, dtype=torch.float64, device=computed[0].device)
    for ours, theirs in zip(computed, wanted, strict=True):
        expected = theirs.to(ours.device, torch.float32)
        difference = ours.to(torch.float32, copy=True).sub_(expected)
        norms = torch.linalg.vector_norm(difference), torch.linalg.vector_norm(expected)
        squares += torch.stack(norms).double().square()
    return float((squares[0] / squares[1]).sqrt())
