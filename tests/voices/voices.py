"""Voices to keep, and a store below a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qwen3_tts_service.speech.request import VoicePrompt
from qwen3_tts_service.voices.saved import SavedVoice, Words, new_id
from qwen3_tts_service.voices.store import VoiceStore


def store(directory: Path | None, **limits: Any) -> VoiceStore:
    return VoiceStore(directory, **{"most_voices": 10, "most_bytes": 1 << 20, **limits})


def prompt(seed: int = 0, *, text: str | None = "Some words.", frames: int = 30) -> VoicePrompt:
    random = np.random.default_rng(seed)
    embedding = random.normal(size=1024).astype(np.float32)
    if text is None:
        return VoicePrompt(embedding)
    return VoicePrompt(embedding, random.integers(0, 2048, (frames, 16)), text)


def voice(name: str = "Ada", seed: int = 0, *, text: str | None = "Some words.", **words: Any) -> SavedVoice:
    fields = {
        "id": new_id(),
        "name": name,
        "language": "english",
        "kind": "cloned",
        "ref_text": text,
        "consent": True,
        "created": 1_790_000_000 + seed,
        "model_size": "0b6",
    }
    return SavedVoice(Words(**{**fields, **words}), prompt(seed, text=text))


def assert_same(one: SavedVoice, other: SavedVoice) -> None:
    """To the last bit."""
    assert one.words == other.words
    assert one.prompt.text == other.prompt.text
    assert one.prompt.speaker_embedding.tobytes() == other.prompt.speaker_embedding.tobytes()
    assert (one.prompt.codes is None) == (other.prompt.codes is None)
    if one.prompt.codes is not None:
        assert other.prompt.codes is not None
        assert other.prompt.codes.dtype == np.int64
        np.testing.assert_array_equal(one.prompt.codes, other.prompt.codes)
