"""How many bytes a frame really reads, and in how many operators: its program run once with a counter beside it.

Figures that carry over to other hardware: they follow from the program, not from the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: Operators that read only the rows they are asked for.
_ROWS_ONLY = ("embedding", "index", "index_select", "gather")
#: Our product with weights that a library packed for itself: called with the rows, a stand-in for the weights
#: and the columns of the result.
_PACKED = "packed_linear"
#: Operators that write their first tensor and read the others.
_WRITES_FIRST = ("copy_", "index_put_", "_index_put_impl_", "scatter_", "index_copy_", "fill_", "zero_")


@dataclass(frozen=True)
class Reads:
    """One run: bytes read from tensors that outlive it (weights, caches, state), and operators that computed."""

    bytes: int
    operators: int


def count(program: Callable[[], object], kept: Iterable[torch.Tensor]) -> Reads:
    """Run ``program`` once and count.

    ``kept`` are the tensors that were there before; what the program makes for itself is not counted, since a
    compiler keeps it in registers and caches. An operator that reads rows of a table reads what it returns.
    """
    counter = _Counter(_memory(list(kept)))
    with counter:
        program()
    return Reads(counter.bytes, counter.operators)


def tensors_of(*owners: object) -> list[torch.Tensor]:
    """Every tensor that ``owners`` hold, through their attributes, lists, dicts and dataclasses."""
    found: dict[int, torch.Tensor] = {}
    seen: set[int] = set()
    waiting: list[Any] = list(owners)
    while waiting:
        item = waiting.pop()
        if isinstance(item, torch.Tensor):
            found[id(item)] = item
        elif id(item) not in seen:
            seen.add(id(item))
            if isinstance(item, Mapping):
                waiting += item.values()
            elif isinstance(item, (list, tuple)):
                waiting += item
            elif type(item).__module__.startswith(__package__.split(".")[0]):
                waiting += [getattr(item, name) for name in _attributes(item)]
    return list(found.values())


def _attributes(item: object) -> list[str]:
    slots = getattr(type(item), "__slots__", ())
    names = [*getattr(item, "__dict__", {}), *((slots,) if isinstance(slots, str) else slots)]
    return [name for name in names if hasattr(item, name)]


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, kept: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept = kept
        self.bytes = 0
        self.operators = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if not func._schema.is_mutable and _memory(tree_leaves(result)) <= _memory(read):
            # A view: the memory is only looked at in another way.
            return result
        self.operators += 1
        if name == _PACKED:
            rows, _, columns = args
            self.bytes += rows.shape[-1] * columns * rows.element_size()
            return result
        if name in _WRITES_FIRST:
            read = read[1:]
        for tensor in read:
            if _address(tensor) not in self._kept:
                continue
            # The table is the first; its indices are small.
            whole = name not in _ROWS_ONLY or tensor is not read[0]
            counted = tensor if whole else tree_leaves(result)[0]
            self.bytes += counted.numel() * tensor.element_size()
        return result


def _memory(leaves: list[Any]) -> set[int]:
    return {_address(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)}


def _address(tensor: torch.Tensor) -> int:
    # Weights that a library has packed for itself have no storage that could be shared.
    return id(tensor) if tensor.is_mkldnn else tensor.untyped_storage().data_ptr()
