"""Weights that a test lets arrive: what a download says of itself, and at the end its files and its record."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from qwen3_tts_service.checkpoints.download import Pulled, write_record
from qwen3_tts_service.checkpoints.download_state import DownloadState, write_state
from qwen3_tts_service.weights import Weights

GB = 1_000_000_000


class ArrivingWeights:
    """A download below ``directory`` that has not begun."""

    def __init__(self, directory: Path) -> None:
        self.snapshot = directory / "snapshot"
        self.record, self.state_file = directory / "record.json", directory / "state.json"
        self.weights = Weights(self.record, self.state_file)

    def tell(self, **fields: Any) -> None:
        """Write what a download says that is half-way."""
        told = {
            "repo": "Someone/Qwen3-TTS-Test",
            "state": "downloading",
            "started": time.time(),
            "beat": time.monotonic(),
            "done": 2 * GB,
            "total": 4 * GB,
            "rate": 10_000_000.0,
            "remaining_s": 200.0,
            "file": "model.safetensors",
        }
        write_state(self.state_file, DownloadState(**told | fields))  # type: ignore[arg-type]

    def arrive(self) -> None:
        """Everything is there, and recorded."""
        (self.snapshot / "speech_tokenizer").mkdir(parents=True)
        for part in (self.snapshot, self.snapshot / "speech_tokenizer"):
            (part / "config.json").write_text("{}")
            save_file({"numbers": np.zeros(4, np.float32)}, part / "model.safetensors")
        files = {
            str(file.relative_to(self.snapshot)): file.stat().st_size
            for file in self.snapshot.rglob("*")
            if file.is_file()
        }
        write_record(self.record, Pulled("Someone/Qwen3-TTS-Test", "c0ffee", str(self.snapshot), files))
        self.tell(state="complete")
