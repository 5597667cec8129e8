"""Requests that any kind of checkpoint can speak, of a chosen length."""

from __future__ import annotations

import bisect
import itertools

import numpy as np

from ..checkpoints.load import Checkpoint
from ..engine.prompt import PromptBuilder
from ..errors import InputTooLong
from ..speech.request import SpeechRequest, VoicePrompt

_STORY = (
    "the reader went on slowly, and whoever listened heard every word of a story about rivers, "
    "ships and the people who lived on them in all seasons"
)
_DESCRIPTION = "A calm voice, not too fast."


def spoken_by(
    checkpoint: Checkpoint, text: str, *, max_frames: int = 2048, seed: int | None = None
) -> SpeechRequest:
    """``text`` in a voice that the checkpoint has: a built-in one, a described one, or a made-up recording's.

    The text is fed whole, as upstream does without a recording, so that prompts have the same length.
    """
    config = checkpoint.config["talker_config"]
    voice = next(iter(config.get("spk_id") or ()), None)
    clone = None
    if checkpoint.model_type == "base":
        # The time does not depend on the voice: a quiet random one needs no recording.
        embedding = np.random.default_rng(0).normal(0, 0.02, config["hidden_size"]).astype(np.float32)
        clone = VoicePrompt(embedding)
    return SpeechRequest(
        text,
        voice=voice if checkpoint.model_type == "custom_voice" else None,
        instructions=_DESCRIPTION if checkpoint.model_type == "voice_design" else None,
        seed=seed,
        max_frames=max_frames,
        clone=clone,
        text_feeding="whole",
    )


def request_of_length(builder: PromptBuilder, checkpoint: Checkpoint, positions: int) -> SpeechRequest:
    """The longest request whose prompt has at most ``positions`` positions (at least one word)."""
    words = list(itertools.islice(itertools.cycle(_STORY.split()), max(1, positions)))

    def length(count: int) -> int:
        request = spoken_by(checkpoint, " ".join(words[: count + 1]))
        try:
            return int(builder.build(request).embeds.shape[0])
        except InputTooLong:
            return positions + 1

    # A word has at least one token, so there is no need to look beyond one word a position.
    longer = bisect.bisect_right(range(len(words)), positions, key=length)
    return spoken_by(checkpoint, " ".join(words[: max(1, longer)]))
