"""The noise: a function of seed, frame, codebook and token, and of nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qwen3_tts_service.engine import sampling as draw

MASK = 0xFFFFFFFF


def mix(x: int) -> int:
    """The same hash in Python's own integers, as the source of the constants writes it."""
    x ^= x >> 16
    x = x * 0x7FEB352D & MASK
    x ^= x >> 15
    x = x * 0x846CA68B & MASK
    return x ^ (x >> 16)


def noise(seed: int, frame: int, codebook: int, token: int) -> float:
    low, high = seed & MASK, (seed >> 32) & MASK
    golden = 0x9E3779B9
    frame_key = mix(mix(mix(low) + high * golden & MASK) + frame * golden & MASK)
    codebook_key = mix(frame_key ^ (codebook * golden & MASK))
    return ((mix(mix(codebook_key ^ token) + codebook_key & MASK) >> 9) + 0.5) / 2**23


def test_the_hash_is_the_one_of_plain_integers() -> None:
    """No product overflows, no sign is lost: the numbers are those of exact arithmetic."""
    seeds = [0, 1, 2**31, 2**32 - 1, 2**63 - 1, -1, -(2**63), 123_456_789_012_345]
    for seed in seeds:
        for frame, codebook in ((0, 0), (1, 15), (2047, 7)):
            key = draw.frame_key(torch.tensor([seed]), torch.tensor([frame]))
            ours = draw.uniform(key, codebook, 3072)[0]
            for token in (0, 1, 1024, 3071):
                assert float(ours[token]) == noise(seed, frame, codebook, token)


def samples(key: Tensor, codebook: int = 0) -> Tensor:
    return draw.uniform(key, codebook, 2048)


def test_noise_never_leaves_the_open_interval() -> None:
    numbers = samples(draw.frame_key(torch.arange(2000), torch.arange(2000)))
    assert float(numbers.min()) > 0.0
    assert float(numbers.max()) < 1.0
    assert torch.log(-torch.log(numbers)).isfinite().all()
    # The extremes of the grid itself, which a random draw hardly meets.
    ends = (torch.tensor([0, (1 << 23) - 1]).float() + 0.5) * 2.0**-23
    assert torch.log(-torch.log(ends)).isfinite().all()


@pytest.mark.parametrize("what", ["seed", "frame", "codebook"])
def test_neighbouring_streams_are_independent(what: str) -> None:
    """Noise of frame n and n + 1 (seed, codebook alike) does not correlate, in place or shifted by a token."""
    count = torch.arange(200)
    zero = torch.zeros_like(count)
    if what == "codebook":
        keys = draw.frame_key(zero + 7, count)
        first, second = samples(keys, 3), samples(keys, 4)
    else:
        first = samples(draw.frame_key(count if what == "seed" else zero, count if what == "frame" else zero))
        second = first.roll(1, dims=0)
    for shift in (0, 1, 2):
        both = torch.stack((first.flatten(), second.roll(shift, dims=1).flatten())).double()
        # 4e5 pairs: five standard deviations.
        assert abs(float(both.corrcoef()[0, 1])) < 5 / first.numel() ** 0.5


def test_rows_keep_to_their_own_settings() -> None:
    """A batch of different rows draws what each row draws alone."""
    generator = torch.Generator().manual_seed(0)
    rows = 12
    logits = torch.randn(rows, 2048, generator=generator) * 3
    settings = {
        "temperature": torch.rand(rows, generator=generator) * 2 + 0.05,
        "top_k": torch.randint(0, 100, (rows,), generator=generator),
        "top_p": torch.rand(rows, generator=generator) * 0.9 + 0.1,
        "greedy": torch.arange(rows) % 3 == 0,
        "key": draw.frame_key(torch.arange(rows), torch.arange(rows)),
    }
    together = draw.sample(logits, codebook=5, **settings)
    for row in range(rows):
        one = slice(row, row + 1)
        by_itself = draw.sample(
            logits[one], codebook=5, **{name: values[one] for name, values in settings.items()}
        )
        assert int(by_itself) == int(together[row])
    greedy = settings["greedy"]
    assert torch.equal(together[greedy], logits.argmax(dim=-1)[greedy])
    assert not torch.equal(together[~greedy], logits.argmax(dim=-1)[~greedy])


def test_the_likeliest_is_left_by_the_strictest_settings() -> None:
    logits = torch.randn(4, 2048, generator=torch.Generator().manual_seed(1))
    left = draw.process(
        logits,
        temperature=torch.full((4,), 0.7),
        top_k=torch.tensor([1, 0, 50, 2048]),
        top_p=torch.tensor([1.0, 1e-6, 1e-6, 1e-6]),
    )
    assert torch.equal((~left.isinf()).sum(dim=-1), torch.ones(4, dtype=torch.int64))
    assert torch.equal(left.argmax(dim=-1), logits.argmax(dim=-1))
