"""Does the device compute what the CPU computes?

A GPU that runs code for another one (a wrong ``HSA_OVERRIDE_GFX_VERSION``) raises no exception: it returns
NaN or noise. So a frame with a fixed prompt and fixed codes is computed as the loaded model computes it on its
device, and independently by :mod:`.cpu_reference`, and the logits are compared.

For the frame engine this is the first link of a chain: what passes here is ``FrameModel.frame`` in plain torch,
and every faster way and batch size is then held against that by :mod:`.verification`.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.load import LoadedModel
from ..errors import SelfCheckFailed
from ..speech.request import Sampling
from .cpu_reference import CPUReference, FrameLogits
from .frame import FrameModel
from .verification import FixedPrompt

logger = logging.getLogger(__name__)

#: Largest allowed error: root mean square of the difference of the logits over their standard deviation.
#: Unrelated logits give 1.4. Measured on a CPU with random weights, the engine's frame: bfloat16 0.017 (tiny) and
#: 0.035 (0.6B), with weights of 8 bits 0.023 and 0.045, float32 3e-6, the order of summation. The room above is for
#: the larger activations of trained weights: a wrong refusal would cost an operator more than a coarse bound.
TOLERANCES = {torch.bfloat16: 0.2, torch.float32: 0.005}
#: Where weights are rounded to 8 bits.
INT8_TOLERANCE = 0.2

#: The prompt: text ids (all of them exist in every Qwen tokenizer) over ids of the talker's vocabulary.
_TEXT_IDS = (151644, 77091, 198, 39, 68, 75, 75, 78, 11, 1879, 13, 151645, 198, 151671, 151671, 151671)
_CODEC_IDS = (2154, 2156, 2050, 2157, 2148, 2149, 0, 1, 2, 127, 500, 999, 1000, 1500, 2000, 2047)
#: The frame's codes, whatever the logits say.
_CODES = (1024, *(_CODEC_IDS[6 + book % 10] for book in range(15)))


@dataclass(frozen=True)
class SelfCheckReport:
    """A passed self-check: the larger error of talker and code predictor, its limit, and the time it took."""

    max_error: float
    tolerance: float
    seconds: float


def check(model: LoadedModel, frames: FrameModel | None = None) -> SelfCheckReport:
    """Compare the logits of ``frames``, which was made of ``model``, with the CPU's; without it, upstream's modules'.

    ``frames`` must not speak meanwhile. Raises SelfCheckFailed naming the way out.
    """
    started = time.monotonic()
    tolerance = INT8_TOLERANCE if frames is not None and frames.rounded else TOLERANCES[model.dtype]
    with torch.no_grad():
        computed = _of_upstream(model) if frames is None else _of_frames(model, frames)
        expected = CPUReference(model.checkpoint, _TEXT_IDS, _CODEC_IDS).logits(_CODES)
        errors = {
            "talker": _error(computed.talker, expected.talker[-len(computed.talker) :]),
            "code predictor": _error(computed.predictor, expected.predictor),
        }
    for part, error in errors.items():
        # Written so that NaN fails too.
        if not error <= tolerance:
            raise SelfCheckFailed(
                f"the {part} computes something else on {model.device} in {_name(model.dtype)} than on the "
                f"CPU: relative error {error:.3g}, allowed {tolerance:g}. The device would speak noise. "
                "On an AMD GPU the usual cause is a wrong HSA_OVERRIDE_GFX_VERSION, or a torch that is not "
                "built for this GPU; correct it (role variable tts_runtime_gfx_override), or set device to cpu"
            )
    report = SelfCheckReport(max(errors.values()), tolerance, time.monotonic() - started)
    logger.info(
        "self-check passed on %s in %s: error %.2g of %g allowed, %.1f s",
        model.device,
        _name(model.dtype),
        report.max_error,
        tolerance,
        report.seconds,
    )
    return report


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _error(logits: Tensor, expected: Tensor) -> float:
    """Of the logits that were not ruled out before a choice; NaN where one is no number."""
    logits = logits.float().cpu()
    possible = logits != -torch.inf
    difference = logits[possible] - expected[possible]
    return float(difference.pow(2).mean().sqrt() / expected[possible].std())


def _prompt(model: LoadedModel) -> Tensor:
    """[1, positions, hidden], by upstream's embeddings, which stay when its layers went over into the engine's."""
    talker: Any = model.upstream.model.talker
    text, codec = (torch.tensor([ids], device=model.device) for ids in (_TEXT_IDS, _CODEC_IDS))
    embeds: Tensor = talker.text_projection(talker.get_text_embeddings()(text))
    embeds += talker.get_input_embeddings()(codec)
    return embeds


def _of_frames(model: LoadedModel, frames: FrameModel) -> FrameLogits:
    """As the engine speaks: the prompt but its last position is read, then one frame is computed."""
    prompt = _prompt(model)[0]
    recorded: list[Tensor] = []
    sample = frames.sample_fn

    def given(logits: Tensor, *, codebook: int, **_settings: Any) -> Tensor:
        recorded.append(logits.clone())
        return torch.full((len(logits),), _CODES[codebook], device=logits.device)

    frames.sample_fn = given
    try:
        frames.admit(0, FixedPrompt(prompt, prompt[:0]), Sampling(greedy=True), 0, 1)
        frames.frame(1, len(prompt))
    finally:
        frames.sample_fn = sample
        frames.state.active.fill_(False)
    first, *others = recorded
    return FrameLogits(first, torch.cat(others))


def _of_upstream(model: LoadedModel) -> FrameLogits:
    talker: Any = model.upstream.model.talker
    predictor = talker.code_predictor
    hidden = talker.model(inputs_embeds=_prompt(model), use_cache=False).last_hidden_state
    tables = (talker.get_input_embeddings(), *predictor.get_input_embeddings()[:-1])
    codes = torch.tensor(_CODES, device=model.device)
    embedded = [table(code)[None, None] for table, code in zip(tables, codes, strict=False)]
    projected = predictor.small_to_mtp_projection(torch.cat((hidden[:, -1:], *embedded), dim=1))
    output = predictor.model(inputs_embeds=projected, use_cache=False).last_hidden_state[0]
    return FrameLogits(
        talker.codec_head(hidden)[0],
        torch.stack([head(output[book + 1]) for book, head in enumerate(predictor.lm_head)]),
    )
