"""What the streaming decoder keeps of its streams between calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class DecoderState:
    """What ``batch`` streams have heard so far. Belongs to its streams; every decode call moves it on in place.

    One row of ``memory`` holds everything of one stream, so that streams are gathered into a batch, copied and
    moved by copying rows. Both tensors stay where they are for the life of the state (CUDA graphs rely on it).
    """

    memory: Tensor  # [batch, size], the decoder's dtype
    position: Tensor  # [batch] int64: frames decoded

    @classmethod
    def empty(cls, batch: int, size: int, dtype: torch.dtype, device: torch.device) -> DecoderState:
        """Of streams before their first frame, ``size`` values each."""
        return cls(
            torch.zeros(batch, size, dtype=dtype, device=device),
            torch.zeros(batch, dtype=torch.int64, device=device),
        )

    @classmethod
    def joined(cls, members: Sequence[DecoderState]) -> DecoderState:
        """A copy of ``members``, their streams side by side."""
        return cls(
            torch.cat([member.memory for member in members]),
            torch.cat([member.position for member in members]),
        )

    @property
    def batch(self) -> int:
        return self.memory.shape[0]

    def first(self, batch: int) -> DecoderState:
        """The first ``batch`` of its streams, in the same memory."""
        return DecoderState(self.memory[:batch], self.position[:batch])

    def reset(self) -> None:
        """Before the first frame again."""
        self.memory.zero_()
        self.position.zero_()

    def take(self, members: Sequence[DecoderState]) -> None:
        """Become a copy of ``members``, whose batches add up to its own."""
        torch.cat([member.memory for member in members], out=self.memory)
        torch.cat([member.position for member in members], out=self.position)

    def give_back(self, members: Sequence[DecoderState]) -> None:
        """Move ``members`` on to where their copy has come."""
        batches = [member.batch for member in members]
        parts = torch.split(self.memory, batches), torch.split(self.position, batches)
        for member, memory, position in zip(members, *parts, strict=True):
            member.memory.copy_(memory)
            member.position.copy_(position)
