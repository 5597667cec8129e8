"""Put into a server's engine process before it starts: speech of a fixed length, and the time of every frame in a file.

The server itself is the ordinary one; only what is measured is made comparable and visible.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from ..checkpoints.load import LoadedModel
    from ..engine.frame import FrameModel

#: Seconds of ``time.monotonic``, which all processes of a host share: launched, read; and rows of the batch.
_RECORD = struct.Struct("<ddi")
_SOON_S = 0.1
_for_ever = ExitStack()


def install(frame_times: str) -> None:
    """For the life of this process: no end of speech, and each frame's times in the file ``frame_times``."""
    from ..engine import graphs

    # Never left: a block that nobody holds would be left at once.
    _for_ever.enter_context(endless())
    # Open as long as the process lives.
    file = Path(frame_times).open("ab", buffering=0)  # noqa: SIM115
    _timed(graphs.FrameRunner, file)


@contextmanager
def endless() -> Iterator[None]:
    """Engines that are built in this block do not end speech by themselves.

    Random weights end anywhere, and so may real ones: programs are compared over the same number of frames.
    """
    from ..engine import frame
    from ..engine import reference as upstreams

    frames: Any = frame.FrameModel
    reference: Any = upstreams.ReferenceEngine
    build, wrap = frames.__init__, reference.__init__

    def build_endless(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        go_on(self)

    def wrap_endless(self: Any, model: LoadedModel) -> None:
        wrap(self, model)
        forbid_end(model)

    frames.__init__, reference.__init__ = build_endless, wrap_endless
    try:
        yield
    finally:
        frames.__init__, reference.__init__ = build, wrap


def go_on(frames: FrameModel) -> None:
    """Let ``frames``, of which nothing has been captured yet, never draw the end of speech."""
    frames.suppressed[frames.eos] = True
    # No code is called so: the end is no exception from what is suppressed, and nothing is taken for it.
    frames.eos = -1


def forbid_end(model: LoadedModel) -> RemovableHandle:
    """Keep upstream's generate on ``model`` from ending by itself, until the handle is removed."""
    eos = model.checkpoint.config["talker_config"]["codec_eos_token_id"]

    def forbid(_module: object, _inputs: object, logits: Any) -> Any:
        logits[..., eos] = float("-inf")
        return logits

    handle: RemovableHandle = model.upstream.model.talker.codec_head.register_forward_hook(forbid)
    return handle


class _TimedTicket:
    def __init__(self, ticket: Any, batch: int, launched: float, file: BinaryIO) -> None:
        self._ticket, self._batch, self._launched, self._file = ticket, batch, launched, file

    def read(self) -> Any:
        result = self._ticket.read()
        self._file.write(_RECORD.pack(self._launched, time.monotonic(), self._batch))
        return result


def _timed(runner: Any, file: BinaryIO) -> None:
    launch = runner.launch

    def launch_timed(self: Any, batch: int, active: Any) -> _TimedTicket:
        launched = time.monotonic()
        if self.computes_at_launch:
            # Nothing is launched ahead then: what comes soon after a frame still belongs to its run.
            launched -= _SOON_S
        return _TimedTicket(launch(self, batch, active), batch, launched, file)

    runner.launch = launch_timed


@dataclass(frozen=True)
class FrameGaps:
    """Seconds between two frames of an unbroken run, by the rows of the later one's batch.

    Rows are those that were launched: a slot that pauses keeps its row while others stand behind it.
    """

    by_rows: Mapping[int, Sequence[float]]

    @property
    def seconds(self) -> list[float]:
        """All of them."""
        return [gap for gaps in self.by_rows.values() for gap in gaps]

    @property
    def rows(self) -> float:
        """The mean rows of a batch."""
        return sum(rows * len(gaps) for rows, gaps in self.by_rows.items()) / len(self.seconds)


def gaps(file: Path, *, since: float, until: float) -> FrameGaps | None:
    """The gaps of the frames that were read in a stretch of ``time.monotonic``; None when there are none.

    A frame that was launched only after the one before it had been read follows a pause, not a frame.
    """
    content = file.read_bytes()
    whole = len(content) - len(content) % _RECORD.size
    by_rows: dict[int, list[float]] = {}
    before = None
    for launched, read, batch in _RECORD.iter_unpack(content[:whole]):
        if before is not None and launched < before and since <= before and read <= until:
            by_rows.setdefault(batch, []).append(read - before)
        before = read
    return FrameGaps(by_rows) if by_rows else None
