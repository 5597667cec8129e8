"""Where a long text is cut: nothing is lost, nothing is too long, and no sentence is torn without need."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_tts_service.speech.parts import LONGEST, parts

ENGLISH = "Dr. Smith paid $3.50 at 5 p.m. on Monday. Then he slept! Did he, really? Yes."


def width(part: str) -> int:
    """Latin letters; what is wide counts three."""
    return sum(3 if ord(character) > 0x2E80 else 1 for character in part)


@pytest.mark.parametrize(
    ("language", "text", "sentences"),
    [
        ("english", ENGLISH, 4),
        ("chinese", "你好。今天天气很好！我们去公园吧？", 3),
        ("japanese", "今日は。元気ですか？はい、元気です！", 3),
        ("korean", "안녕하세요. 반갑습니다! 네?", 3),
        ("german", "Das kostet z. B. 3,5 Euro. Am 3. Mai kam er. Gut.", 3),
        ("french", "Bonjour. M. Dupont est là. Il est 5 h.", 3),
        ("russian", "Привет. Как дела? Хорошо!", 3),
        ("portuguese", "Olá. O Sr. Silva saiu. Voltou às 5.", 3),
        ("spanish", "¿Cómo estás? Muy bien. ¡Vamos!", 3),
        ("italian", "Ciao. Il sig. Rossi è qui. Come va?", 3),
    ],
)
def test_the_sentences_of_ten_languages(language: str, text: str, sentences: int) -> None:
    found = parts(text, "sentence", language)
    assert len(found) == sentences, found
    assert "".join(found).replace(" ", "") == text.replace(" ", "")
    if language in ("chinese", "japanese", "korean", "russian"):
        assert parts(text, "sentence", None) == found, "its script tells as much"


def test_a_short_paragraph_is_one_part_and_a_blank_line_is_an_end() -> None:
    assert parts(ENGLISH, "paragraph") == (ENGLISH,)
    assert parts(f"{ENGLISH}\n \nAnd then?", "paragraph") == (ENGLISH, "And then?")
    assert parts("One\r\n\r\ntwo\N{PARAGRAPH SEPARATOR}three", "paragraph") == ("One", "two", "three")
    assert parts("A line\nand its end.", "paragraph") == ("A line and its end.",)


def test_nothing_is_cut_where_nothing_shall_be() -> None:
    assert parts(f" {ENGLISH}\n\n{ENGLISH * 20} ", "none") == (f"{ENGLISH}  {ENGLISH * 20}",)


def test_a_long_paragraph_is_cut_after_sentences() -> None:
    found = parts("It was the best of times, it was the worst of times. " * 40, "paragraph")
    assert 5 <= len(found) <= 8
    assert all(part.endswith("times.") and len(part) <= LONGEST for part in found)
    assert parts("好天气真好，我们走吧。" * 100, "paragraph")[0].endswith("。")


def test_a_long_sentence_is_cut_between_clauses_then_words_then_letters() -> None:
    clauses = parts("and so it went on and on, " * 60, "paragraph")
    assert all(part.endswith(",") for part in clauses[:-1])
    assert all(part.endswith("，") for part in parts("我们走吧，" * 200, "paragraph")[:-1])
    assert all(len(part) == 399 for part in parts("word " * 400, "paragraph")[:-1])
    assert {len(part) for part in parts("x" * 1200, "paragraph")} == {400}
    marks = parts("e\N{COMBINING ACUTE ACCENT}" * 1001, "paragraph")
    assert all(part.startswith("e") for part in marks)


def test_punctuation_alone_is_no_part_unless_it_is_all() -> None:
    assert parts("One.\n\n* * *\n\n—\n\nTwo.", "sentence") == ("One.", "Two.")
    assert parts("...", "sentence") == ("...",)
    assert parts("😀\n\n€", "paragraph") == ("😀", "€")


@pytest.mark.parametrize("split", ["sentence", "paragraph"])
@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=1500))
def test_no_text_is_lost_or_too_long(split: str, text: str) -> None:
    found = parts(text, split)  # type: ignore[arg-type]
    assert found
    silent = re.compile(r"[\W_]+")
    assert silent.sub("", "".join(found)) == silent.sub("", text)
    if len(found) > 1:
        assert max(map(width, found)) <= LONGEST * 3
