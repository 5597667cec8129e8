"""What torch reserves of a GPU, by the rules of its allocator.

After ``c10/cuda/CUDACachingAllocator.cpp`` with its default settings, for one stream: memory is asked of the device in
segments, which are cut into blocks and joined again, but never with each other; what is free stays reserved until the
cache is emptied.
"""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass, field

_MIB = 1 << 20
_SMALLEST = 512
#: Up to here blocks share segments of 2 MiB, up to the next those of 20 MiB; what is larger has its own.
_SMALL, _MIDDLE = _MIB, 10 * _MIB


@dataclass(eq=False)
class _Block:
    size: int
    small: bool
    free: bool = False
    before: _Block | None = None
    behind: _Block | None = None


@dataclass
class CachingAllocator:
    """``reserved`` bytes of the device now, and the ``most`` so far; ``used`` by tensors."""

    reserved: int = 0
    most: int = 0
    used: int = 0
    #: By small: free blocks, smallest first, older first.
    _free: dict[bool, list[tuple[int, int, _Block]]] = field(default_factory=lambda: {True: [], False: []})
    _order: itertools.count[int] = field(default_factory=itertools.count)

    def allocate(self, size: int) -> _Block:
        """The smallest free block that is large enough, cut to ``size`` bytes; else of a new segment."""
        size = -(-max(size, 1) // _SMALLEST) * _SMALLEST
        small = size <= _SMALL
        free = self._free[small]
        at = bisect.bisect_left(free, (size, -1))
        block = free.pop(at)[2] if at < len(free) else self._segment(size, small)
        rest = block.size - size
        if rest >= _SMALLEST if small else rest > _SMALL:
            behind = _Block(rest, small, before=block, behind=block.behind)
            if block.behind:
                block.behind.before = behind
            block.behind, block.size = behind, size
            self._keep(behind)
        block.free = False
        self.used += block.size
        return block

    def free(self, block: _Block) -> None:
        """Join the block with its free neighbours and keep it."""
        self.used -= block.size
        if block.before and block.before.free:
            self._join(block, block.before)
            block.before = block.before.before
            if block.before:
                block.before.behind = block
        if block.behind and block.behind.free:
            self._join(block, block.behind)
            block.behind = block.behind.behind
            if block.behind:
                block.behind.before = block
        self._keep(block)

    def empty_cache(self) -> None:
        """Give segments back that are free as a whole."""
        for small, free in self._free.items():
            whole = [entry for entry in free if not entry[2].before and not entry[2].behind]
            self._free[small] = [entry for entry in free if entry not in whole]
            self.reserved -= sum(size for size, _, _ in whole)

    def _segment(self, size: int, small: bool) -> _Block:
        whole = 2 * _MIB if small else 20 * _MIB if size < _MIDDLE else -(-size // (2 * _MIB)) * 2 * _MIB
        self.reserved += whole
        self.most = max(self.most, self.reserved)
        return _Block(whole, small)

    def _keep(self, block: _Block) -> None:
        block.free = True
        bisect.insort(self._free[block.small], (block.size, next(self._order), block))

    def _join(self, block: _Block, neighbour: _Block) -> None:
        self._free[block.small] = [entry for entry in self._free[block.small] if entry[2] is not neighbour]
        block.size += neighbour.size
