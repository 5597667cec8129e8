"""What the decoder knows after a recording that speech continues: kept for as long as somebody may need it."""

from __future__ import annotations

import copy
import threading
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt


class HeardContexts:
    """Decoder states by the array of codes that they have heard.

    Arrays are told apart by identity, which whoever keeps a voice keeps with it; when one is gone, so is its
    state (some megabytes each).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: dict[int, tuple[weakref.ref[Any], Any]] = {}

    def knows(self, codes: npt.NDArray[np.int64]) -> bool:
        """Whether :meth:`state` has one."""
        with self._lock:
            return id(codes) in self._states

    def state(self, codes: npt.NDArray[np.int64]) -> Any:
        """A copy of the state after ``codes``, the caller's own; None when they were not heard."""
        with self._lock:
            _, state = self._states.get(id(codes), (None, None))
        return copy.deepcopy(state)

    def keep(self, codes: npt.NDArray[np.int64], state: Any) -> None:
        """Remember a copy of ``state``, which has heard ``codes`` and nothing else."""
        key = id(codes)
        with self._lock:
            self._states[key] = (
                weakref.ref(codes, lambda _: self._states.pop(key, None)),
                copy.deepcopy(state),
            )
