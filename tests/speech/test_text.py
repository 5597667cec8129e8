"""What of a text reaches the tokenizer."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3_tts_service.errors import InputTooLong, InvalidRequest, InvalidValue
from qwen3_tts_service.speech import text

ANYTHING = st.text(st.characters(codec=None, exclude_categories=()))


@given(ANYTHING)
def test_it_is_refused_or_comes_out_clean_and_stays_so(given_text: str) -> None:
    try:
        spoken = text.clean(given_text, max_chars=10_000)
    except InvalidRequest:
        return
    assert text.clean(spoken, max_chars=10_000) == spoken
    assert spoken == spoken.strip()
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in spoken)
    # Nothing else is lost or changed, whatever the script.
    kept = [character for character in given_text if unicodedata.category(character) != "Cc"]
    assert "".join("".join(kept).split()) == "".join(spoken.split())


@pytest.mark.parametrize(
    "sentence",
    [
        "你好，世界。",
        "Привет, мир!",
        "こんにちは世界",
        "안녕하세요",
        "مرحبا بالعالم",
        "नमस्ते दुनिया",
        "Ça va, Zoë? Straße",
        "👩‍👩‍👧 a family joined by ZWJ",
        "می‌خواهم",
        "e\u0301 stays decomposed",
        "a < b | c > d",
        "<|not a word|>",
    ],
)
def test_every_script_passes_unchanged(sentence: str) -> None:
    assert text.clean(sentence, max_chars=100) == sentence


@pytest.mark.parametrize(
    "word", ["<|im_end|>", "<|endoftext|>", "<|im_start|>", "<tts_pad>", "<tts_text_bos_single>"]
)
def test_control_words_are_refused_by_name(word: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        text.clean(f"Hello {word} there", max_chars=100, param="instructions")
    assert caught.value.param == "instructions"
    assert word in caught.value.message


def test_control_characters_cannot_assemble_a_control_word() -> None:
    assert text.clean("<|im\x00_end|>", max_chars=100) == "<|im _end|>"


def test_the_limit_counts_characters() -> None:
    assert text.clean("é" * 10, max_chars=10) == "é" * 10
    with pytest.raises(InputTooLong, match="has 11 characters, at most 10"):
        text.clean("é" * 11, max_chars=10)


@pytest.mark.parametrize("nothing", ["", "   ", "\n\t", "\x00", "\u200b", "\ufeff \u2028"])
def test_a_text_without_sound_is_empty(nothing: str) -> None:
    with pytest.raises(InvalidValue, match="empty"):
        text.clean(nothing, max_chars=100)
