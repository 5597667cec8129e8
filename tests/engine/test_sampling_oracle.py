"""The filters against transformers' own processors, the draw against the probabilities it shall have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from qwen3_tts_service.engine import sampling as draw

VOCABULARY, EOS = 3072, 2150
SUPPRESSED = [token for token in range(VOCABULARY - 1024, VOCABULARY) if token != EOS]
SETTINGS = 50


class Settings:
    """One random request: what it was asked for, what it has said, and the logits of its next step."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.temperature = float(random.uniform(0.1, 2.5))
        self.top_k = int(random.choice([0, 1, 2, 50, 400, 5000]))
        self.top_p = float(random.choice([1.0, 0.99, 0.9, 0.5, 0.05]))
        self.penalty = float(random.choice([1.0, 1.05, 1.7, 0.8]))
        self.spoken = random.integers(0, 2048, int(random.choice([0, 1, 2, 40]))).tolist()
        logits = torch.from_numpy(random.standard_normal(VOCABULARY) * random.uniform(0.5, 6)).float()
        # Logits of a bf16 model are full of equal values; half of the settings have such.
        self.logits = logits.bfloat16().float() if random.integers(2) else logits

    def by_transformers(self) -> Tensor:
        """As upstream's generate puts them together, in its order."""
        processors = LogitsProcessorList()
        if self.penalty != 1.0:
            processors.append(RepetitionPenaltyLogitsProcessor(self.penalty))
        processors.append(MinNewTokensLengthLogitsProcessor(0, 2, EOS, device="cpu"))
        processors.append(SuppressTokensLogitsProcessor(SUPPRESSED, device="cpu"))
        processors.append(TemperatureLogitsWarper(self.temperature))
        if self.top_k:
            processors.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1.0:
            processors.append(TopPLogitsWarper(self.top_p))
        spoken = torch.tensor([self.spoken], dtype=torch.int64)
        scores: Tensor = processors(spoken, self.logits[None].clone())
        return scores[0]


def column(settings: list[Settings], name: str, dtype: torch.dtype) -> Tensor:
    return torch.tensor([getattr(each, name) for each in settings], dtype=dtype)


def by_us(settings: list[Settings]) -> Tensor:
    """All of them in one batch."""
    seen = torch.zeros(len(settings), VOCABULARY, dtype=torch.bool)
    for row, each in zip(seen, settings, strict=True):
        row[each.spoken] = True
    suppressed = torch.zeros(VOCABULARY, dtype=torch.bool)
    suppressed[SUPPRESSED] = True
    restricted = draw.restrict(
        torch.stack([each.logits for each in settings]),
        seen=seen,
        penalty=column(settings, "penalty", torch.float32),
        step=torch.tensor([len(each.spoken) for each in settings]),
        suppressed=suppressed,
        eos=EOS,
    )
    return draw.process(
        restricted,
        temperature=column(settings, "temperature", torch.float32),
        top_k=column(settings, "top_k", torch.int64),
        top_p=column(settings, "top_p", torch.float32),
    )


def test_processed_logits_are_transformers_own() -> None:
    settings = [Settings(seed) for seed in range(SETTINGS)]
    ours = by_us(settings)
    exceptions = 0
    for each, row in zip(settings, ours, strict=True):
        theirs = each.by_transformers()
        dropped = row.isinf() != theirs.isinf()
        if dropped.any():
            # Where several candidates tie for the last place, transformers keeps some of them, by the order
            # of an unstable sort; ours keeps all.
            assert not row[dropped].isinf().any()
            last = row[~row.isinf()].min()
            assert (row[dropped] == last).all()
            assert (theirs == last).any()
            exceptions += 1
        kept = ~theirs.isinf()
        torch.testing.assert_close(row[kept], theirs[kept], atol=1e-5, rtol=0)
    assert exceptions < SETTINGS / 5


def draws(logits: Tensor, settings: Settings, count: int, codebook: int = 3) -> Tensor:
    rows = logits.expand(count, -1)
    return draw.sample(
        rows,
        temperature=torch.full((count,), settings.temperature),
        top_k=torch.full((count,), settings.top_k),
        top_p=torch.full((count,), settings.top_p),
        greedy=torch.zeros(count, dtype=torch.bool),
        key=draw.frame_key(torch.full((count,), 42), torch.arange(count)),
        codebook=codebook,
    )


@pytest.mark.parametrize("seed", range(4))
def test_drawn_frequencies_pass_a_chi_square(seed: int) -> None:
    """1e5 draws, one a frame, over some fifty candidates of very different probability."""
    settings = Settings(seed)
    settings.top_k, settings.top_p, settings.temperature = (
        (50, 0, 0, 12)[seed],
        (1.0, 1.0, 0.9, 0.99)[seed],
        0.9,
    )
    logits = torch.randn(60, generator=torch.Generator().manual_seed(seed)) * 1.5
    count = 100_000
    drawn = torch.cat([draws(logits, settings, count // 10, codebook) for codebook in range(10)])
    processed = draw.process(
        logits[None],
        temperature=torch.tensor([settings.temperature]),
        top_k=torch.tensor([settings.top_k]),
        top_p=torch.tensor([settings.top_p]),
    )[0]
    expected = processed.softmax(dim=-1).double() * count
    found = torch.bincount(drawn, minlength=60).double()
    assert not found[processed.isinf()].any()
    kept = expected >= 5
    statistic = float(((found - expected)[kept].square() / expected[kept]).sum())
    assert chi2.sf(statistic, int(kept.sum()) - 1) > 1e-3
