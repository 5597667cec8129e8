"""Prompts equal to the last bit what upstream's public methods hand to the talker."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_tts_service.checkpoints.load import load
from qwen3_tts_service.checkpoints.text_tokenizer import special_token_ids
from qwen3_tts_service.engine.frame import FrameModel
from qwen3_tts_service.engine.prompt import Prompt, PromptBuilder
from qwen3_tts_service.speech.request import CloneReference, SpeechRequest, VoicePrompt

from .upstream_prompts import TEXT, Upstream, UpstreamPrompt, recording

FEEDINGS: Any = ["whole", "streaming"]


def builder_for(checkpoint: Path, dtype: str = "fp32") -> PromptBuilder:
    return PromptBuilder(load(checkpoint, device="cpu", dtype=dtype, cpu_threads=1))


@pytest.fixture(scope="module")
def custom(tiny_checkpoint: Path) -> PromptBuilder:
    return builder_for(tiny_checkpoint)


@pytest.fixture(scope="module")
def upstream_custom(tiny_checkpoint: Path) -> Upstream:
    return Upstream(tiny_checkpoint)


@pytest.fixture(scope="module")
def base(base_checkpoint: Path) -> PromptBuilder:
    return builder_for(base_checkpoint)


@pytest.fixture(scope="module")
def upstream_base(base_checkpoint: Path) -> Upstream:
    return Upstream(base_checkpoint)


def assert_equal(prompt: Prompt, pad: torch.Tensor, expected: UpstreamPrompt) -> None:
    """Bit for bit; beyond the end of ``trailing``, upstream's rows are padding."""
    assert torch.equal(prompt.embeds, expected.embeds)
    assert torch.equal(pad, expected.pad)
    beyond = expected.trailing[len(prompt.trailing) :]
    assert torch.equal(prompt.trailing, expected.trailing[: len(prompt.trailing)])
    assert torch.equal(beyond, pad.expand(len(beyond), -1))


@pytest.mark.parametrize("feeding", FEEDINGS)
@pytest.mark.parametrize(
    ("voice", "language", "instructions"),
    [
        ("vivian", None, None),
        ("Ryan", "English", None),
        ("ryan", "german", "Speak slowly, as if to a child."),
        ("dylan", "auto", None),
        ("dylan", "Chinese", "用特别愤怒的语气说"),
        ("eric", None, None),
        ("eric", "japanese", None),
    ],
)
def test_custom_voice(
    custom: PromptBuilder,
    upstream_custom: Upstream,
    voice: str,
    language: str | None,
    instructions: str | None,
    feeding: Any,
) -> None:
    [expected] = upstream_custom.prompts(
        "generate_custom_voice",
        TEXT,
        voice,
        language,
        instruct=instructions,
        non_streaming_mode=feeding == "whole",
    )
    request = SpeechRequest(TEXT, voice, language, instructions=instructions, text_feeding=feeding)
    assert_equal(custom.build(request), custom.pad, expected)


def test_voice_design(design_checkpoint: Path) -> None:
    builder, upstream = builder_for(design_checkpoint), Upstream(design_checkpoint)
    for feeding in FEEDINGS:
        [expected] = upstream.prompts(
            "generate_voice_design", TEXT, "A deep voice.", "french", non_streaming_mode=feeding == "whole"
        )
        request = SpeechRequest(TEXT, None, "french", instructions="A deep voice.", text_feeding=feeding)
        assert_equal(builder.build(request), builder.pad, expected)


@pytest.mark.parametrize("feeding", [None, *FEEDINGS])
@pytest.mark.parametrize("words", [None, "So I said.", "A long text for a short recording. " * 3])
@pytest.mark.parametrize(("seconds", "sample_rate"), [(1.0, 24_000), (3.21, 24_000), (2.0, 44_100)])
def test_clone(
    base: PromptBuilder,
    upstream_base: Upstream,
    words: str | None,
    seconds: float,
    sample_rate: int,
    feeding: Any,
) -> None:
    """By the sound of the voice only, and in context; text longer and shorter than the recording."""
    wave = recording(seconds, sample_rate)
    [expected] = upstream_base.prompts(
        "generate_voice_clone",
        TEXT,
        "english",
        ref_audio=(wave, sample_rate),
        ref_text=words,
        x_vector_only_mode=words is None,
        **({} if feeding is None else {"non_streaming_mode": feeding == "whole"}),
    )
    clone = CloneReference(wave, sample_rate, words)
    request = SpeechRequest(TEXT, None, "english", clone=clone, text_feeding=feeding)
    prompt = base.build(request)
    assert_equal(prompt, base.pad, expected)
    # What was made of the recording once gives the same prompt, and says what the codec has to hear first.
    kept = base.encode_reference(clone)
    assert (kept.codes is None) == (words is None)
    again = base.build(SpeechRequest(TEXT, None, "english", clone=kept, text_feeding=feeding))
    assert_equal(again, base.pad, expected)
    if kept.codes is None:
        assert prompt.context is None
    else:
        [item] = upstream_base.model.create_voice_clone_prompt((wave, sample_rate), ref_text=words)
        assert np.array_equal(kept.codes, item.ref_code)
        assert np.array_equal(prompt.context, kept.codes)


def test_every_row_of_upstreams_batches(custom: PromptBuilder, upstream_custom: Upstream) -> None:
    """Upstream pads rows to the longest; a lone request must not depend on its neighbours."""
    texts = ["Yes.", TEXT * 3, "我叫通义千问。"]
    voices = ["vivian", "dylan", "eric"]
    languages = ["english", "auto", "chinese"]
    instructions = ["", "Whisper.", ""]
    for feeding in FEEDINGS:
        rows = upstream_custom.prompts(
            "generate_custom_voice",
            texts,
            voices,
            languages,
            instruct=instructions,
            non_streaming_mode=feeding == "whole",
        )
        for row, text, voice, language, words in zip(
            rows, texts, voices, languages, instructions, strict=True
        ):
            request = SpeechRequest(text, voice, language, instructions=words or None, text_feeding=feeding)
            assert_equal(custom.build(request), custom.pad, row)


def test_every_row_of_upstreams_batches_of_clones(base: PromptBuilder, upstream_base: Upstream) -> None:
    waves = [recording(1.5, seed=1), recording(2.5, seed=2)]
    words = ["One.", "Two, and then three."]
    items = [
        upstream_base.model.create_voice_clone_prompt((wave, 24_000), ref_text=said, x_vector_only_mode=only)[
            0
        ]
        for wave, said, only in zip(waves, words, [False, True], strict=True)
    ]
    for feeding in FEEDINGS:
        rows = upstream_base.prompts(
            "generate_voice_clone",
            [TEXT, "Short."],
            ["english", "auto"],
            voice_clone_prompt=items,
            non_streaming_mode=feeding == "whole",
        )
        requests = [
            SpeechRequest(
                TEXT,
                language="english",
                clone=CloneReference(waves[0], 24_000, words[0]),
                text_feeding=feeding,
            ),
            SpeechRequest("Short.", clone=CloneReference(waves[1], 24_000), text_feeding=feeding),
        ]
        for row, request in zip(rows, requests, strict=True):
            assert_equal(base.build(request), base.pad, row)


#: Letters of many scripts, emoji with their joiners, line ends and spaces; no halves of surrogate pairs, and none of
#: the model's control words, which are refused (Hypothesis draws literals of the code under test).
TEXTS = st.text(
    st.one_of(
        st.characters(codec="utf-8", exclude_categories=["Cs", "Co", "Cn"]),
        st.sampled_from("你好，世界。👩‍👩‍👧🇩🇪\n\t \u200d\ufe0f'äß한日"),
    ),
    min_size=1,
    max_size=40,
).filter(lambda text: bool(text.strip()) and not any(word in text for word in special_token_ids()))


@settings(max_examples=60, deadline=None)
@given(text=TEXTS, instructions=st.none() | TEXTS, feeding=st.sampled_from(FEEDINGS))
def test_any_text(
    custom: PromptBuilder, upstream_custom: Upstream, text: str, instructions: str | None, feeding: Any
) -> None:
    [expected] = upstream_custom.prompts(
        "generate_custom_voice",
        text,
        "serena",
        instruct=instructions,
        non_streaming_mode=feeding == "whole",
    )
    request = SpeechRequest(text, "serena", instructions=instructions, text_feeding=feeding)
    prompt = custom.build(request)
    assert_equal(prompt, custom.pad, expected)
    assert prompt.text_tokens >= 1


def test_bfloat16_too(base_checkpoint: Path) -> None:
    builder, upstream = builder_for(base_checkpoint, "bf16"), Upstream(base_checkpoint, torch.bfloat16)
    wave = recording(2.0)
    clone = CloneReference(wave, 24_000)
    for feeding in FEEDINGS:
        [expected] = upstream.prompts(
            "generate_voice_clone",
            TEXT,
            ref_audio=(wave, 24_000),
            x_vector_only_mode=True,
            non_streaming_mode=feeding == "whole",
        )
        prompt = builder.build(SpeechRequest(TEXT, clone=clone, text_feeding=feeding))
        assert prompt.embeds.dtype == torch.bfloat16
        assert_equal(prompt, builder.pad, expected)


def test_many_threads_beside_an_engine_that_freed_upstreams_layers(base_checkpoint: Path) -> None:
    """Every request builds its prompt on its own thread, and so it encodes its recording."""
    model = load(base_checkpoint, device="cpu", cpu_threads=1)
    builder = PromptBuilder(model)
    voice = builder.encode_reference(CloneReference(recording(1.0), 24_000, "Hello."))
    requests = [
        SpeechRequest(f"Number {number}. {'Well. ' * number}", clone=voice, text_feeding=FEEDINGS[number % 2])
        for number in range(16)
    ]
    expected = [builder.build(request) for request in requests]
    FrameModel(model, slots=1, positions=64, release_upstream=True)
    builder = PromptBuilder(model)
    built: dict[int, list[Prompt]] = {}
    start = threading.Barrier(8)

    def build(number: int) -> None:
        start.wait()
        heard = builder.encode_reference(CloneReference(recording(1.0), 24_000, "Hello."))
        assert np.array_equal(heard.codes, voice.codes)
        built[number] = [builder.build(replace(request, clone=heard)) for request in requests]

    threads = [threading.Thread(target=build, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(built) == list(range(8))
    for prompts in built.values():
        for prompt, alone in zip(prompts, expected, strict=True):
            assert torch.equal(prompt.embeds, alone.embeds)
            assert torch.equal(prompt.trailing, alone.trailing)


def test_a_kept_voice_is_plain_numbers(base: PromptBuilder) -> None:
    """So that it can be stored and travel between processes and devices."""
    kept = base.encode_reference(CloneReference(recording(1.0), 24_000, "Hello."))
    assert isinstance(kept, VoicePrompt)
    assert kept.speaker_embedding.dtype == np.float32
    assert kept.codes is not None
    assert kept.codes.dtype == np.int64
    assert kept.text == "Hello."
