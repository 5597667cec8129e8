"""Which job sits in which slot, and how many rows a frame has to compute for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

Occupant = TypeVar("Occupant")


class Slots(Generic[Occupant]):
    """The engine's slots and their occupants. A frame computes rows 0 to the next of ``batch_sizes``."""

    def __init__(self, count: int, batch_sizes: Sequence[int]) -> None:
        self.occupants: list[Occupant | None] = [None] * count
        self._sizes = sorted(batch_sizes)
        assert self._sizes[-1] == count, "the largest batch must be all slots"

    def lowest_free(self) -> int | None:
        """Where the next job enters: low, so that batches stay small."""
        return next((slot for slot, occupant in enumerate(self.occupants) if occupant is None), None)

    def live(self) -> list[Occupant]:
        """All occupants, from the lowest slot up."""
        return [occupant for occupant in self.occupants if occupant is not None]

    def batch_size(self, rows: int) -> int:
        """The smallest batch that has ``rows`` rows."""
        return next(size for size in self._sizes if size >= rows)

    def worthwhile_move(self) -> tuple[int, int] | None:
        """The highest occupied slot and the lowest free one, when fewer rows would do for all occupants.

        None when moving the occupants together would not lead to a smaller batch.
        """
        occupied = [slot for slot, occupant in enumerate(self.occupants) if occupant is not None]
        if not occupied or self.batch_size(len(occupied)) >= self.batch_size(occupied[-1] + 1):
            return None
        target = self.lowest_free()
        assert target is not None
        return occupied[-1], target
