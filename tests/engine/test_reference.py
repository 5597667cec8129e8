"""The reference engine against upstream's public interface on the same weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qwen_tts import Qwen3TTSModel

from qwen3_tts_service.engine.reference import ReferenceEngine
from qwen3_tts_service.errors import (
    Cancelled,
    InvalidValue,
    NotSupportedByModel,
    UnknownLanguage,
    UnknownVoice,
)
from qwen3_tts_service.speech.request import CloneReference, Sampling, SpeechRequest

from .upstream_prompts import TEXT, recording


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> ReferenceEngine:
    return ReferenceEngine.load(tiny_checkpoint, device="cpu", cpu_threads=1)


def test_greedy_speech_equals_upstreams(engine: ReferenceEngine, tiny_checkpoint: Path) -> None:
    upstream = Qwen3TTSModel.from_pretrained(str(tiny_checkpoint), dtype=torch.float32)
    spoken: list[Any] = []
    generate = upstream.model.generate
    upstream.model.generate = lambda **arguments: spoken.append(generate(**arguments)) or spoken[-1]
    [waveform], rate = upstream.generate_custom_voice(
        TEXT, "Ryan", "English", instruct="Speak slowly.", do_sample=False, subtalker_dosample=False
    )
    [expected], _ = spoken[0]
    request = SpeechRequest(TEXT, "Ryan", "English", instructions="Speak slowly.")
    codes = engine.codes(request, greedy=True)
    assert codes.tolist() == expected.tolist()
    ours = engine.decode(codes)
    assert rate == engine.sample_rate == 24_000
    assert ours.shape == waveform.shape == (1920 * len(codes),)
    # The same operations in the same order: equal but for the number of threads that sum.
    assert float(np.abs(ours - waveform).max()) < 1e-5


@pytest.mark.parametrize("words", [None, "So I said."])
def test_cloned_speech_equals_upstreams(base_checkpoint: Path, words: str | None) -> None:
    """Both text feedings; in context, the codec hears the recording first and its sound is cut off."""
    upstream = Qwen3TTSModel.from_pretrained(str(base_checkpoint), dtype=torch.float32)
    engine = ReferenceEngine.load(base_checkpoint, device="cpu", cpu_threads=1)
    wave = recording(1.44, 44_100)
    for feeding in (None, "whole"):
        [expected], _ = upstream.generate_voice_clone(
            "Yes.",
            "english",
            ref_audio=(wave, 44_100),
            ref_text=words,
            x_vector_only_mode=words is None,
            **({} if feeding is None else {"non_streaming_mode": True}),
            do_sample=False,
            subtalker_dosample=False,
            max_new_tokens=31,
        )
        request = SpeechRequest(
            "Yes.",
            language="english",
            max_frames=30,
            sampling=Sampling(greedy=True),
            clone=CloneReference(wave, 44_100, words),
            text_feeding=feeding,
        )
        ours = engine.synthesize(request)
        assert len(ours) % 1920 == 0
        # Upstream finds the end of the recording by a rounded division.
        assert 0 <= len(expected) - len(ours) <= 1
        assert float(np.abs(ours - expected[len(expected) - len(ours) :]).max()) < 1e-5


def test_sampling_values_reach_upstream(engine: ReferenceEngine, tiny_checkpoint: Path) -> None:
    upstream = Qwen3TTSModel.from_pretrained(str(tiny_checkpoint), dtype=torch.float32)
    spoken: list[Any] = []
    generate = upstream.model.generate
    upstream.model.generate = lambda **arguments: spoken.append(generate(**arguments)) or spoken[-1]

    def theirs(values: dict[str, Any]) -> list[list[int]]:
        torch.manual_seed(5)
        upstream.generate_custom_voice(TEXT, "Ryan", max_new_tokens=13, **values)
        [codes], _ = spoken[-1]
        return codes.tolist()

    def ours(values: dict[str, Any]) -> list[list[int]]:
        return engine.codes(
            SpeechRequest(TEXT, "Ryan", seed=5, max_frames=12, sampling=Sampling(**values))
        ).tolist()

    values: dict[str, Any] = {
        "temperature": 3.0,
        "top_k": 5,
        "top_p": 0.5,
        "repetition_penalty": 0.5,
        "subtalker_temperature": 2.0,
        "subtalker_top_k": 7,
        "subtalker_top_p": 0.4,
    }
    expected = theirs(values)
    assert ours(values) == expected
    for name in values:
        others = {key: value for key, value in values.items() if key != name}
        assert ours(others) != expected, f"{name} makes no difference"
    everything = {"top_k": 0, "subtalker_top_k": 0}
    assert ours(everything) == theirs(everything)


def test_a_seed_gives_the_same_speech_and_none_another(engine: ReferenceEngine) -> None:
    def speak(seed: int | None) -> list[list[int]]:
        return engine.codes(SpeechRequest(TEXT, "vivian", seed=seed, max_frames=10)).tolist()

    assert speak(7) == speak(7)
    assert speak(7) != speak(8)
    assert speak(None) != speak(None)


def test_waveform_is_mono_float32_in_range(engine: ReferenceEngine) -> None:
    waveform = engine.synthesize(SpeechRequest("Yes.", "vivian", seed=0))
    assert waveform.dtype == np.float32
    assert waveform.ndim == 1
    assert np.abs(waveform).max() <= 1.0


def test_length_is_capped(engine: ReferenceEngine) -> None:
    assert len(engine.codes(SpeechRequest(TEXT, "vivian", seed=0, max_frames=5))) == 5


def test_stops_when_told_and_works_afterwards(engine: ReferenceEngine) -> None:
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    with pytest.raises(Cancelled):
        engine.synthesize(SpeechRequest(TEXT, "vivian"), should_stop=should_stop)
    assert asked == 4
    assert len(engine.codes(SpeechRequest(TEXT, "vivian", max_frames=3))) == 3


@pytest.mark.parametrize(
    ("request_", "error", "names"),
    [
        (SpeechRequest(TEXT, "nobody"), UnknownVoice, "'nobody'.*vivian"),
        (SpeechRequest(TEXT, None), InvalidValue, "missing.*vivian"),
        (SpeechRequest(TEXT, "v" * 9000), UnknownVoice, r"^.{60,90}\.\.\."),
        (SpeechRequest(TEXT, "vivian", "klingon"), UnknownLanguage, "'klingon'.*english"),
        (SpeechRequest(TEXT, "vivian", "beijing_dialect"), UnknownLanguage, "beijing_dialect"),
        (SpeechRequest(" ", "vivian"), InvalidValue, "empty"),
        (SpeechRequest(TEXT, "vivian", max_frames=0), InvalidValue, "max_frames is 0"),
    ],
)
def test_wrong_requests_are_named(
    engine: ReferenceEngine, request_: SpeechRequest, error: type[Exception], names: str
) -> None:
    with pytest.raises(error, match=names):
        engine.synthesize(request_)


def changed_config(source: Path, target: Path, **changes: str) -> ReferenceEngine:
    shutil.copytree(source, target)
    file = target / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return ReferenceEngine.load(target, device="cpu", cpu_threads=1)


def test_small_models_refuse_instructions(tiny_checkpoint: Path, tmp_path: Path) -> None:
    engine = changed_config(tiny_checkpoint, tmp_path / "small", tts_model_size="0b6")
    with pytest.raises(NotSupportedByModel, match=r"0\.6B.*1\.7B"):
        engine.synthesize(SpeechRequest(TEXT, "vivian", instructions="Whisper."))
    assert len(engine.codes(SpeechRequest(TEXT, "vivian", max_frames=2))) == 2


def test_voice_design_has_no_voices(tiny_checkpoint: Path, tmp_path: Path) -> None:
    engine = changed_config(tiny_checkpoint, tmp_path / "design", tts_model_type="voice_design")
    with pytest.raises(UnknownVoice, match="Describe the voice"):
        engine.synthesize(SpeechRequest(TEXT, "vivian"))
    with pytest.raises(InvalidValue, match="describe the voice"):
        engine.synthesize(SpeechRequest(TEXT))
