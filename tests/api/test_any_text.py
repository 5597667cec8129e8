"""Any text at all is spoken or refused with a reason; never is it the server's failure."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from server_process import Answer
from stand_in_engine import Service, service

MAX_CHARS = 1_000_000
#: A block of each kind of script: alphabets, abjads, abugidas, syllables, logograms; some beyond the first plane.
BLOCKS = (
    *(
        (0x41, 0x5A),
        (0xC0, 0x24F),
        (0x370, 0x3FF),
        (0x400, 0x4FF),
        (0x530, 0x58F),
        (0x590, 0x5FF),
        (0x600, 0x6FF),
    ),
    *(
        (0x700, 0x74F),
        (0x900, 0x97F),
        (0x980, 0x9FF),
        (0xB80, 0xBFF),
        (0xE00, 0xE7F),
        (0xF00, 0xFFF),
        (0x10A0, 0x10FF),
    ),
    *(
        (0x1100, 0x11FF),
        (0x1200, 0x137F),
        (0x13A0, 0x13FF),
        (0x1780, 0x17FF),
        (0x1800, 0x18AF),
        (0x3040, 0x30FF),
    ),
    *(
        (0x4E00, 0x9FFF),
        (0xAC00, 0xD7A3),
        (0xA4D0, 0xA4FF),
        (0x10330, 0x1034F),
        (0x12000, 0x123FF),
        (0x20000, 0x2A6DF),
    ),
)
#: Right to left and back, joiners, variation selectors, byte order marks, line ends of all kinds.
INVISIBLE = (
    "\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e"
    "\u2066\u2067\u2068\u2069\ufe0f\ufeff\u2028\u2029\x85\xad"
)
EMOJI = (
    "\U0001f600",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "\U0001f1e9\U0001f1ea",
    "\u2764\ufe0f",
    "1\ufe0f\u20e3",
)
PUNCTUATION = "".join(c for c in map(chr, range(0x3100)) if unicodedata.category(c).startswith(("P", "S")))

scripts = st.one_of(
    [st.text(st.characters(min_codepoint=a, max_codepoint=b), max_size=40) for a, b in BLOCKS]
)
anything = st.text(st.characters(codec=None, exclude_categories=()), max_size=60)
controls = st.text([chr(c) for c in (*range(32), 127, *range(128, 160))], max_size=20)
texts = st.one_of(
    scripts,
    anything,
    controls,
    st.text([*INVISIBLE, "a", "\u05d0"], max_size=20),
    st.text(PUNCTUATION, min_size=1, max_size=30),
    st.lists(st.sampled_from(EMOJI), min_size=1, max_size=8).map("".join),
    st.characters(codec=None, exclude_categories=()),
)
mixed = st.lists(texts, min_size=1, max_size=4).map("".join)


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with service(max_input_chars=MAX_CHARS, max_body_bytes=32 << 20) as started:
        yield started


def spoken_or_told(server: Service, text: str) -> Answer:
    body = {"input": text, "voice": "vivian", "response_format": "pcm"}
    answer = server.ask("POST", "/v1/audio/speech", json.dumps(body).encode())
    if answer.status == 200:
        assert answer.content
        return answer
    assert answer.status == 400, answer.content
    error = answer.error
    assert (error["type"], error["param"]) == ("invalid_request_error", "input")
    assert error["code"]
    assert 0 < len(error["message"]) < 500
    return answer


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=mixed)
@example(text="\U0010ffff")
@example(text="\u202e\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 hello\u202c")
@example(text="<|im_start|>\u202e")
@example(text="e" + "\u0301" * 2000)
def test_any_text_is_spoken_or_refused_with_a_reason(running: Service, text: str) -> None:
    spoken_or_told(running, text)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=mixed.filter(bool), characters=st.sampled_from([4096, 65_536, MAX_CHARS, MAX_CHARS + 1]))
def test_up_to_a_megabyte_and_beyond(running: Service, text: str, characters: int) -> None:
    long = (text * (characters // len(text) + 1))[:characters]
    answer = spoken_or_told(running, long)
    if answer.status == 400:
        assert len(answer.error["message"]) < 500


@pytest.mark.parametrize("text", ["a", "\u4e2d", "\u05d0", "\U0001f600", "7", "."])
def test_one_character_is_a_text(running: Service, text: str) -> None:
    assert spoken_or_told(running, text).status == 200
    assert running.engine.spoken[-1] == text


@pytest.mark.parametrize("text", ["", " ", "\t\r\n", "\x00\x07", "\u200b\u2060\ufeff"])
def test_nothing_that_can_be_said_is_said_so(running: Service, text: str) -> None:
    answer = spoken_or_told(running, text)
    assert answer.status == 400
    assert "empty" in answer.error["message"]


def test_every_character_there_is(running: Service) -> None:
    """Not escaped; half surrogates are none."""
    everything = [chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]
    for start in range(0, len(everything), 100_000):
        text = "a" + "".join(everything[start : start + 100_000])
        body = json.dumps({"input": text, "voice": "vivian", "response_format": "pcm"}, ensure_ascii=False)
        assert running.ask("POST", "/v1/audio/speech", body.encode()).status == 200
