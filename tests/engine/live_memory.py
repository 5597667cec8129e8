"""How many bytes of tensors a program holds at once, counted as it makes them and lets them go."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(program: Callable[[], object]) -> int:
    """The most that ``program`` held at once beside what its arguments held before."""
    counter = _Counter()
    with counter:
        program()
    return counter.peak


class _Counter(TorchDispatchMode):
    """Counts memory that an operator returns and was not given: views and writes in place make none."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {storage._cdata for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if storage._cdata not in given and storage._cdata not in self._known:
                self._known.add(storage._cdata)
                self.held += storage.nbytes()
                weakref.finalize(storage, self._let_go, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.held)
        return result

    def _let_go(self, number: int, size: int) -> None:
        self._known.discard(number)
        self.held -= size


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
