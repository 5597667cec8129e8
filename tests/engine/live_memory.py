"""When a program makes memory for tensors and lets it go, and how much of it there is at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Watch(TorchDispatchMode):
    """While it is entered, ``made`` hears of new memory on ``device``, in bytes, and ``gone`` what ``made`` returned.

    New is what an operator returns and was not given: views and writes in place make nothing.
    """

    def __init__(self, made: Callable[[int], Any], gone: Callable[[Any], None], *, device: str) -> None:
        super().__init__()
        self._made, self._gone, self._device = made, gone, device
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {storage._cdata for storage in self._storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in self._storages(result):
            if storage._cdata not in given | self._known and storage.nbytes():
                self._known.add(storage._cdata)
                weakref.finalize(storage, self._let_go, storage._cdata, self._made(storage.nbytes()))
        return result

    def _let_go(self, number: int, made: Any) -> None:
        self._known.discard(number)
        self._gone(made)

    def _storages(self, values: Any) -> list[torch.UntypedStorage]:
        leaves = (leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor))
        return [leaf.untyped_storage() for leaf in leaves if leaf.device.type == self._device]


def peak_bytes(program: Callable[[], object]) -> int:
    """The most that ``program`` held at once on the CPU beside what was there before."""
    held = peak = 0

    def made(size: int) -> int:
        nonlocal held, peak
        held += size
        peak = max(peak, held)
        return size

    def gone(size: int) -> None:
        nonlocal held
        held -= size

    with Watch(made, gone, device="cpu"):
        program()
    return peak
