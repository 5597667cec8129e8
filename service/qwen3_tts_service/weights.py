"""Weights that may still have to come: where they are, or how far their download is."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .checkpoints.download import read_record
from .checkpoints.download_progress import progress_line
from .checkpoints.download_state import DownloadState, read_state
from .checkpoints.verify import problems
from .errors import CheckpointError, DownloadError, Downloading, NotReady, NoWeights

MissingState = Literal["downloading", "download_failed", "download_silent", "no_weights"]

#: A download writes its state every second; after so many without a word it counts as dead. Less would call a busy
#: machine's download dead.
SILENT_AFTER_S = 60.0
#: When to come back (seconds): where nobody can say, and the least and the most of what the download says.
_RETRY_AFTER_S = 30.0
_SOONEST_S, _LATEST_S = 5.0, 600.0
_WAY_OUT = "start the download again, by its unit or the playbook: what arrived is kept, and the model loads by itself"
#: May hold a password, and nobody who asks this server needs to know whom it asks.
_ADDRESS = re.compile(r"\S+://\S+")


@dataclass(frozen=True)
class Missing:
    """Why weights are not here; ``download`` is what their download said last, where there is one."""

    state: MissingState
    reason: str
    download: DownloadState | None = None

    def refusal(self) -> NotReady:
        """The error of a request that needs them."""
        message = f"not ready: {self.reason}"
        if self.state != "downloading":
            return NoWeights(message, retry_after_s=_RETRY_AFTER_S)
        left = self.download.remaining_s if self.download else None
        retry_after_s = _RETRY_AFTER_S if left is None else min(max(left, _SOONEST_S), _LATEST_S)
        return Downloading(message, retry_after_s=retry_after_s)


class Weights:
    """The weights that a setting names: a directory, or the record of a download (``NAME.json``) that tells it.

    ``state_file`` is where that download writes how far it is.
    """

    def __init__(self, path: Path, state_file: Path | None = None) -> None:
        self._path, self._state_file = path, state_file
        self._recorded = path.suffix == ".json"

    def directory(self) -> Path:
        """Where they are. Raises CheckpointError where a download has recorded nothing yet."""
        return Path(read_record(self._path).path) if self._recorded else self._path

    def size(self) -> int:
        """Bytes of the weight files; 0 where there are none."""
        try:
            return sum(file.stat().st_size for file in self.directory().rglob("*.safetensors"))
        except (CheckpointError, OSError):
            return 0

    def missing(self) -> Missing | None:
        """None where they are complete and verified, and for a directory, which its loader judges."""
        if not self._recorded:
            return None
        found = self._problem()
        return self._explained(found) if found else None

    def _problem(self) -> str:
        """What keeps them from being loaded. A record is written when everything agreed with the hub's hashes."""
        try:
            pulled = read_record(self._path)
        except CheckpointError as error:
            return error.message
        return "; ".join(problems(Path(pulled.path), pulled.files))

    def _explained(self, problem: str) -> Missing:
        try:
            download = read_state(self._state_file) if self._state_file else None
        except DownloadError as error:
            return _failed("download_silent", error.message)
        if download is None or download.state == "complete":
            return _failed("no_weights", f"there are no weights and no download of them: {problem}")
        if download.state == "failed":
            cause = _ADDRESS.sub("(address)", "".join(filter(str.isprintable, download.error)))
            return _failed("download_failed", f"the download of the weights failed: {cause}", download)
        silent_s = time.monotonic() - download.beat
        if 0 <= silent_s <= SILENT_AFTER_S:
            return Missing("downloading", f"the weights are being downloaded: {_told(download)}", download)
        # One from the future was written before the host was started.
        since = f"for {silent_s / 60:.0f} min" if silent_s > 0 else "since the host was started"
        return _failed("download_silent", f"the download of the weights has said nothing {since}", download)


def _failed(state: MissingState, reason: str, download: DownloadState | None = None) -> Missing:
    return Missing(state, f"{reason}; {_WAY_OUT}", download)


def _told(download: DownloadState) -> str:
    if download.state == "resolving":
        return "the hub is asked which files there are"
    if download.state == "verifying":
        return "all of it is there and is compared with the hub's hashes"
    return progress_line(download.done, download.total, download.rate).strip()
