"""A voice that comes with every request, as a copy, is one object in the engine's process until it is forgotten."""

from __future__ import annotations

import pickle
import queue
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qwen3_tts_service.config import Settings
from qwen3_tts_service.engine_process import kept_voices
from qwen3_tts_service.engine_process.child import EngineHost, answer
from qwen3_tts_service.engine_process.kept_voices import MOST, KeptVoices
from qwen3_tts_service.engine_process.loading import EngineLoader
from qwen3_tts_service.engine_process.messages import Begin, Call
from qwen3_tts_service.engine_process.sound import SoundMemory
from qwen3_tts_service.loaded_engine import Loaded
from qwen3_tts_service.speech.request import CloneReference, SpeechRequest, VoicePrompt
from stand_in_voices import StandInBase


def voice(seed: int = 0, text: str | None = "Some words.") -> VoicePrompt:
    random = np.random.default_rng(seed)
    codes = None if text is None else random.integers(0, 2048, (20, 16))
    return VoicePrompt(random.normal(size=64).astype(np.float32), codes, text)


def copy(prompt: VoicePrompt) -> VoicePrompt:
    again: VoicePrompt = pickle.loads(pickle.dumps(prompt))
    return again


def test_copies_become_the_first_one() -> None:
    kept = KeptVoices(forgotten_s=60)
    first = voice()
    assert kept.same(first) is first
    assert kept.same(copy(first)) is first
    others = [voice(1), voice(text=None), VoicePrompt(first.speaker_embedding, first.codes, "Other words.")]
    codes = first.codes
    assert codes is not None
    others.append(VoicePrompt(first.speaker_embedding, codes.reshape(40, 8), first.text))
    others.append(VoicePrompt(first.speaker_embedding, (codes + 1) % 2048, first.text))
    for other in others:
        assert kept.same(other) is other


def test_only_the_newest_are_kept() -> None:
    kept = KeptVoices(forgotten_s=60)
    first, second = voice(0), voice(1)
    kept.same(first)
    kept.same(second)
    for seed in range(2, MOST + 1):
        kept.same(copy(first))
        kept.same(voice(seed))
    assert kept.same(copy(first)) is first
    assert kept.same(copy(second)) is not second


def test_one_that_is_forgotten_is_gone_with_its_last_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when a request that was accepted before comes later: it must not be kept again."""
    now = 1000.0
    monkeypatch.setattr(kept_voices.time, "monotonic", lambda: now)
    kept = KeptVoices(forgotten_s=60)
    prompt = voice()
    gone = weakref.ref(kept.same(prompt))
    sent = copy(prompt)
    del prompt
    kept.forget(copy(sent))
    assert gone() is None
    late = copy(sent)
    assert kept.same(late) is late
    assert kept.same(sent) is sent
    now += 61
    assert kept.same(late) is late
    assert kept.same(sent) is late, "a voice may be saved again, from a backup"


class Host:
    """The engine's process without a process: one base model, number 1."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine = StandInBase(slots=4)
        self.spoken: list[SpeechRequest] = []

        def start(request: SpeechRequest, listener: Any, *, deadline: float) -> object:
            self.spoken.append(request)
            return SimpleNamespace(text_tokens=1)

        self.engine.start = start  # type: ignore[attr-defined]
        monkeypatch.setattr(EngineLoader, "load", lambda *_: Loaded(self.engine))
        memory = SoundMemory.create(1)
        begin = Begin(Settings(model=Path("/nowhere")), memory.descriptor, 1)
        self.host = EngineHost(begin, queue.SimpleQueue())  # type: ignore[arg-type]
        self.ask("load", 1, Path("/nowhere"))

    def ask(self, name: str, *arguments: Any) -> Any:
        told = answer(self.host, Call(1, name, arguments))
        if told.error is not None:
            raise told.error
        return told.value

    def speak(self, prompt: VoicePrompt) -> VoicePrompt:
        """What the engine is given for ``prompt``."""
        self.ask("start", 1, SpeechRequest("Hello.", clone=copy(prompt)), 1e12, 1, 0)
        given = self.spoken[-1].clone
        assert isinstance(given, VoicePrompt)
        return given


def test_the_engine_is_given_the_same_object_until_the_voice_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host(monkeypatch)
    recording = CloneReference(np.ones(24_000, np.float32), 24_000, "Words.")
    prompt = host.ask("encode_reference", 1, recording)
    first = host.speak(prompt)
    assert host.speak(prompt) is first
    host.ask("forget", copy(prompt))
    assert host.speak(prompt) is not first
    other = host.speak(voice())
    assert host.speak(voice()) is other
    host.ask("close", 1)
    host.ask("load", 1, Path("/nowhere"))
    assert host.speak(voice()) is not other, "an engine that is put aside takes its voices along"
