"""What upstream itself hands to the talker: its public methods, stopped where generation begins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from qwen_tts import Qwen3TTSModel

TEXT = "Hello world, how are you?"


@dataclass(frozen=True)
class UpstreamPrompt:
    """One row of the batch that ``talker.generate`` was called with, without its padding."""

    embeds: torch.Tensor
    trailing: torch.Tensor
    pad: torch.Tensor


class _Stop(Exception):
    """Raised in place of generating."""


class Upstream:
    """A second copy of a checkpoint, opened as upstream's users do."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype = torch.float32) -> None:
        self.model: Any = Qwen3TTSModel.from_pretrained(str(checkpoint), dtype=dtype)

    def prompts(self, method: str, *arguments: Any, **keywords: Any) -> list[UpstreamPrompt]:
        """Call ``generate_custom_voice`` or one of its kind and return what reached the talker, row by row."""
        caught: dict[str, torch.Tensor] = {}

        def stop(**handed_over: Any) -> None:
            caught.update(handed_over)
            raise _Stop

        talker = self.model.model.talker
        talker.generate = stop
        try:
            getattr(self.model, method)(*arguments, **keywords)
        except _Stop:
            pass
        finally:
            del talker.generate
        pad = caught["tts_pad_embed"][0, 0]
        return [
            UpstreamPrompt(embeds[mask.bool()], trailing, pad)
            for embeds, mask, trailing in zip(
                caught["inputs_embeds"],
                caught["attention_mask"],
                caught["trailing_text_hidden"],
                strict=True,
            )
        ]


def recording(seconds: float, sample_rate: int = 24_000, seed: int = 0) -> np.ndarray[Any, Any]:
    """A voice of sorts: a gliding tone with harmonics, in noise."""
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    phase = 2 * np.pi * (120 + 10 * seed + 30 * np.sin(3 * time)).cumsum() / sample_rate
    noise = np.random.default_rng(seed).standard_normal(len(time))
    wave = sum(np.sin(k * phase) / k for k in range(1, 8)) * 0.1 + 0.02 * noise
    return wave.astype(np.float32)
