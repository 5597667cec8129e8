"""Requests that a checkpoint cannot speak: refused by type, with value, limit and way out in the message."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_tts_service.checkpoints.load import inspect, load
from qwen3_tts_service.engine.prompt import PromptBuilder, default_sampling
from qwen3_tts_service.engine.requests import MAX_POSITIONS
from qwen3_tts_service.errors import (
    CheckpointError,
    InputTooLong,
    InvalidRequest,
    InvalidValue,
    NotSupportedByModel,
    UnknownVoice,
)
from qwen3_tts_service.speech.request import CloneReference, Sampling, SpeechRequest, VoicePrompt

from .upstream_prompts import TEXT, recording

WAVE = recording(1.0)
RECORDING = CloneReference(WAVE, 24_000)
CODES = np.zeros((10, 16), np.int64)
EMBEDDING = np.zeros(128, np.float32)


def changed(**changes: Any) -> CloneReference:
    return replace(RECORDING, **changes)


def with_sample(value: float) -> CloneReference:
    wave = WAVE.copy()
    wave[len(wave) // 2] = value
    return changed(waveform=wave)


@pytest.fixture(scope="module")
def custom(tiny_checkpoint: Path) -> PromptBuilder:
    return PromptBuilder(load(tiny_checkpoint, device="cpu", cpu_threads=1))


@pytest.fixture(scope="module")
def base(base_checkpoint: Path) -> PromptBuilder:
    return PromptBuilder(load(base_checkpoint, device="cpu", cpu_threads=1))


def refused(builder: PromptBuilder, request: SpeechRequest) -> InvalidRequest:
    """The error of ``check``, after seeing that ``build`` raises the same one."""
    with pytest.raises(InvalidRequest) as checked:
        builder.check(request)
    with pytest.raises(InvalidRequest) as built:
        builder.build(request)
    assert (type(checked.value), checked.value.message) == (type(built.value), built.value.message)
    return checked.value


@pytest.mark.parametrize(
    ("clone", "words"),
    [
        (changed(waveform=WAVE[:23_999]), r"lasts 1\.00 s, it must last 1 to 60 s: record more"),
        (changed(waveform=WAVE[:0]), r"lasts 0\.00 s"),
        (changed(waveform=np.tile(WAVE, 61)), r"lasts 61\.00 s, it must last 1 to 60 s: cut it"),
        (changed(waveform=WAVE[:12_000], sample_rate=48_000), r"lasts 0\.25 s"),
        (with_sample(np.nan), "NaN or infinite"),
        (with_sample(np.inf), "NaN or infinite"),
        (with_sample(-np.inf), "NaN or infinite"),
        (with_sample(2.5), r"largest sample of the recording is 2\.5: scale it"),
        (changed(waveform=WAVE * 32768), r"scale it to \[-1, 1\]"),
        (changed(waveform=np.zeros_like(WAVE)), r"silent .*0\.0e\+00, at least 0\.001"),
        (changed(waveform=WAVE[None]), r"float32 of shape \(1, 24000\), it must be mono"),
        (changed(waveform=WAVE.astype(np.float64)), "float64 of shape"),
        (changed(sample_rate=0), "0 samples a second, it must have 8000 to 192000"),
        (changed(sample_rate=7_999), "7999 samples a second"),
        (changed(sample_rate=10**9), "1000000000 samples a second"),
        (changed(text=" \n"), "text of the recording is empty: write down what is said"),
        (changed(text="So <|im_end|> ends"), r"`clone` holds '<\|im_end\|>', a control word"),
        (changed(text="half \ud83d"), "`clone` holds half of a surrogate pair"),
        (VoicePrompt(EMBEDDING[:64]), r"shape \(64,\), this checkpoint needs \(128,\)"),
        (VoicePrompt(EMBEDDING, CODES), "both the codes of the recording and its text, or neither"),
        (VoicePrompt(EMBEDDING, None, "Hello."), "both the codes"),
        (VoicePrompt(EMBEDDING, CODES[:, :8], "Hello."), r"shape \(10, 8\), they must be \[frames, 16\]"),
        (VoicePrompt(EMBEDDING, CODES[:0], "Hello."), r"shape \(0, 16\)"),
        (VoicePrompt(EMBEDDING, CODES + 2048, "Hello."), "from 0 to 2047"),
        (VoicePrompt(EMBEDDING, CODES - 1, "Hello."), "from 0 to 2047"),
    ],
)
def test_recordings_and_voices_of_no_use(
    base: PromptBuilder, clone: CloneReference | VoicePrompt, words: str
) -> None:
    error = refused(base, SpeechRequest(TEXT, clone=clone))
    assert isinstance(error, InvalidValue)
    assert error.param == "clone"
    with pytest.raises(InvalidValue, match=words):
        raise error


def test_the_ends_of_the_ranges_are_allowed(base: PromptBuilder) -> None:
    base.check(SpeechRequest(TEXT, clone=changed(waveform=np.tile(WAVE, 60), text="A minute.")))
    base.check(SpeechRequest(TEXT, clone=VoicePrompt(EMBEDDING, CODES + 2047, "Hello.")))
    # A little beyond 1, as a lossy codec's overshoot is, and any common rate.
    for rate in (8_000, 11_025, 16_000, 44_100, 48_000, 192_000):
        clone = CloneReference(recording(1.0, rate) * 1.5, rate, "Hello.")
        prompt = base.build(SpeechRequest(TEXT, clone=clone))
        assert prompt.context is not None
        assert prompt.context.shape == (13, 16)
        assert bool(prompt.embeds.isfinite().all())


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"clone": None}, NotSupportedByModel, "only clones a voice from a recording"),
        ({"voice": "vivian"}, UnknownVoice, "'vivian': a base checkpoint has no built-in voices"),
        ({"instructions": "Whisper."}, NotSupportedByModel, "takes no instructions"),
    ],
)
def test_what_a_base_checkpoint_cannot_do(
    base: PromptBuilder, change: dict[str, Any], error: type[InvalidRequest], words: str
) -> None:
    caught = refused(base, replace(SpeechRequest(TEXT, clone=RECORDING), **change))
    assert type(caught) is error
    assert words in caught.message


def test_only_base_checkpoints_clone(custom: PromptBuilder) -> None:
    caught = refused(custom, SpeechRequest(TEXT, "vivian", clone=RECORDING))
    assert type(caught) is NotSupportedByModel
    assert "load a base checkpoint" in caught.message
    with pytest.raises(NotSupportedByModel, match="load a base checkpoint"):
        custom.encode_reference(RECORDING)


@pytest.mark.parametrize(
    ("change", "param"), [({"text": "<tts_pad>"}, "input"), ({"instructions": "a</think>"}, "instructions")]
)
def test_control_words_are_refused_wherever_they_stand(
    custom: PromptBuilder, change: dict[str, Any], param: str
) -> None:
    caught = refused(custom, replace(SpeechRequest(TEXT, "vivian"), **change))
    assert isinstance(caught, InvalidValue)
    assert "a control word of the model" in caught.message
    assert caught.param == param


def test_too_long_says_how_long_and_what_to_shorten(custom: PromptBuilder, base: PromptBuilder) -> None:
    room = MAX_POSITIONS - 8  # upstream's template; a synthetic checkpoint's tokens are bytes
    custom.check(SpeechRequest("x" * room, "vivian"))
    caught = refused(custom, SpeechRequest("x" * (room + 1), "vivian"))
    assert type(caught) is InputTooLong
    assert caught.param == "input"
    assert f"takes {MAX_POSITIONS + 1} positions" in caught.message
    assert caught.message.endswith(f"may take {MAX_POSITIONS}: shorten the text")
    caught = refused(custom, SpeechRequest("x", "vivian", instructions="y" * MAX_POSITIONS))
    assert caught.param == "instructions"
    minute = changed(waveform=np.tile(WAVE, 60))
    base.check(SpeechRequest("x" * 800, clone=minute))
    caught = refused(base, SpeechRequest("x" * 800, clone=replace(minute, text="y")))
    assert "text 808, recording 750, text of the recording 6" in caught.message


def test_sampling_is_the_requests_or_the_checkpoints(
    tiny_checkpoint: Path, tmp_path: Path, custom: PromptBuilder
) -> None:
    own = Sampling(temperature=0.3)
    assert custom.sampling(SpeechRequest(TEXT, "vivian", sampling=own)) == own
    assert custom.sampling(SpeechRequest(TEXT, "vivian")) == Sampling()

    def stored(change: Callable[[dict[str, Any]], Any]) -> Sampling:
        copy = tmp_path / "copy"
        shutil.copytree(tiny_checkpoint, copy)
        file = copy / "generation_config.json"
        values = json.loads(file.read_text())
        change(values)
        file.write_text(json.dumps(values))
        sampling = default_sampling(inspect(copy))
        shutil.rmtree(copy)
        return sampling

    assert stored(lambda values: values.update(top_k=20, subtalker_top_p=0.5)) == Sampling(
        top_k=20, subtalker_top_p=0.5
    )
    assert stored(lambda values: values.clear()) == Sampling()
    assert stored(lambda values: values.update(do_sample=False, subtalker_dosample=False)).greedy
    assert stored(lambda values: values.update(subtalker_dosample=False)) == Sampling(subtalker_top_k=1)
    with pytest.raises(CheckpointError, match=r"generation_config\.json: `temperature` is 0"):
        stored(lambda values: values.update(temperature=0))
