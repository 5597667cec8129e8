"""What the frame loop asks of the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ..speech.request import Sampling
    from .prompt import Prompt


class FrameResult(Protocol):
    """One computed frame. The arrays are never written to again."""

    @property
    def codes(self) -> npt.NDArray[np.int32]:
        """[batch, 16]; rows that did not advance hold anything."""

    @property
    def done(self) -> npt.NDArray[np.bool_]:
        """[batch]: the row ended with this frame or before it."""


class FrameTicket(Protocol):
    """A launched frame."""

    def read(self) -> FrameResult:
        """Wait until the frame is computed. Raises RuntimeError when the device failed."""


class Runner(Protocol):
    """The device: does what it is told in order, and is only called from one thread.

    A row that is not active, or that ended, does not advance.
    """

    @property
    def slots(self) -> int: ...

    @property
    def batch_sizes(self) -> Sequence[int]:
        """The row counts that ``launch`` takes; the largest is ``slots``."""

    @property
    def computes_at_launch(self) -> bool:
        """Whether ``launch`` returns when the frame is computed, as on a CPU: nothing is gained by running ahead."""

    def launch(self, batch: int, active: Sequence[bool]) -> FrameTicket:
        """Begin a frame of slots 0 to ``batch``. ``active`` has ``batch`` entries."""

    def admit(self, slot: int, prompt: Prompt, sampling: Sampling, seed: int, max_frames: int) -> object:
        """Make ``slot`` ready for the first frame of a request, whatever it held before."""

    def move(self, source: int, target: int) -> None:
        """Copy everything that ``source`` holds to ``target``."""
