"""GPU resets and hangs that the kernel's log tells of while something runs."""

from __future__ import annotations

import os
import re
from pathlib import Path

_LOG = Path("/dev/kmsg")
#: amdgpu's and the NVIDIA driver's words for a GPU that hung, faulted or was reset.
_TROUBLE = re.compile(
    r"GPU reset|ring \S+ timeout|MES (failed|might be in unrecoverable state)|gfxhub.*page fault|MODE[12] reset"
    r"|NVRM: Xid|GPU has fallen off the bus",
    re.IGNORECASE,
)
_RECORD_BYTES = 8192


class KernelLog:
    """Lines about GPU trouble since this object was made.

    ``unreadable`` says why nothing can be seen, or is empty. The file descriptor is closed with :meth:`close`.
    """

    def __init__(self, file: Path = _LOG) -> None:
        self.unreadable = ""
        self._descriptor: int | None = None
        try:
            self._descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
            os.lseek(self._descriptor, 0, os.SEEK_END)
        except OSError as error:
            self.unreadable = f"{file}: {error.strerror}; run as root, or look at journalctl -k yourself"

    def trouble(self) -> list[str]:
        """The new lines that tell of a reset, a hang or a fault."""
        found = []
        while self._descriptor is not None:
            try:
                record = os.read(self._descriptor, _RECORD_BYTES)
            except BlockingIOError:
                break
            except BrokenPipeError:
                # Older records were overwritten before they were read; the next read goes on behind them.
                continue
            if not record:
                break
            text = record.decode("utf-8", errors="replace")
            found += [line for line in text.splitlines() if _TROUBLE.search(line)]
        return found

    def close(self) -> None:
        """Let the log go."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
