"""A long text in parts that one voice speaks one after the other.

A talker loses its way in a text of minutes, and a slot holds only so much of it. So a text is cut where a reader
would breathe: at the ends of paragraphs and sentences, found by ``sentencex``, which knows the abbreviations and
the punctuation of the languages that the models speak; inside a sentence only when it is longer than a part may be.
"""

from __future__ import annotations

import bisect
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Literal, get_args

import sentencex

from .text import spoken

#: Where a text may be cut: nowhere, after every sentence, or after paragraphs, and after sentences only when a
#: paragraph is longer than a part may be.
Split = Literal["none", "sentence", "paragraph"]
SPLITS: tuple[Split, ...] = get_args(Split)

#: Longest part, in :func:`_width`: about half a minute of speech in any language.
LONGEST = 400

#: A blank line, or the character that says so.
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n|\N{PARAGRAPH SEPARATOR}")
#: Where a sentence that is too long is cut rather than between any two words.
_CLAUSE = re.compile(r"(?<=[,;:])\s|(?<=[，；：、،؛])|\s(?=[–—-]\s)")  # noqa: RUF001
_SPACE = re.compile(r"\s")
#: An end of a sentence that the splitter does not know: before Spanish exclamations and questions.
_SPANISH = re.compile(r"(?<=[.!?…]\s)(?=[¡¿])")
#: The checkpoints' names of languages -> the splitter's.
_LANGUAGES = {
    "chinese": "zh",
    "english": "en",
    "french": "fr",
    "german": "de",
    "italian": "it",
    "japanese": "ja",
    "korean": "ko",
    "portuguese": "pt",
    "russian": "ru",
    "spanish": "es",
}
#: Scripts that tell the language where the request does not, in this order: Japanese has Chinese characters too.
_SCRIPTS = (("HIRAGANA", "ja"), ("KATAKANA", "ja"), ("HANGUL", "ko"), ("CJK", "zh"), ("CYRILLIC", "ru"))
#: Of a text's beginning, what is looked at for its script (characters).
_LOOKED_AT = 500


def parts(text: str, split: Split, language: str | None = None) -> tuple[str, ...]:
    """The parts of ``text`` as they are spoken, in order, at least one.

    ``text`` has passed :func:`.text.check`, and is the client's own, with its lines. ``language`` is the request's;
    None and "auto" go by the script. Joined, the parts are the text, but for white space and for parts of nothing
    but punctuation, which have no sound.
    """
    if split == "none":
        return (spoken(text),)
    code = _LANGUAGES.get((language or "").lower()) or _language_of(text.lstrip())
    found: list[str] = []
    for paragraph in map(spoken, _PARAGRAPH.split(text.replace("\r\n", "\n"))):
        sentences = (piece for sentence in _sentences(code, paragraph) for piece in _cut(sentence))
        found += sentences if split == "sentence" else _packed(sentences)
    speakable = tuple(part for part in map(str.strip, found) if _has_sound(part))
    return speakable or (spoken(text),)


def _widths(text: str) -> list[int]:
    """Lengths of its beginnings, from none of it to all of it, in Latin letters: a Chinese character, a kana or a
    syllable of Hangul is about three of them.
    """
    each = (3 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
    return [*itertools.accumulate(each, initial=0)]


def _sentences(code: str, paragraph: str) -> Iterator[str]:
    for sentence in sentencex.segment(code, paragraph):
        yield from _SPANISH.split(sentence)


def _packed(sentences: Iterable[str]) -> Iterator[str]:
    """Sentences joined for as long as a part may be."""
    part, width = "", 0
    for sentence in sentences:
        more = _widths(sentence)[-1]
        if part and width + more > LONGEST:
            yield part
            part, width = "", 0
        part, width = part + sentence, width + more
    if part:
        yield part


def _cut(sentence: str) -> Iterator[str]:
    """The sentence in pieces that are short enough: cut between clauses, else words, else characters."""
    widths = _widths(sentence)
    start = 0
    while widths[-1] - widths[start] > LONGEST:
        head = sentence[start : bisect.bisect_right(widths, widths[start] + LONGEST) - 1]
        for place in (_CLAUSE, _SPACE):
            # The last one, but not so early that what is left before it is a word or two.
            ends = [match.end() for match in place.finditer(head) if match.end() > len(head) // 3]
            if ends:
                head = head[: ends[-1]]
                break
        else:
            head = head[: _between_characters(sentence[start : start + len(head) + 1], len(head))]
        yield head
        start += len(head)
    yield sentence[start:]


def _between_characters(text: str, at: int) -> int:
    """The last place before ``at`` that does not tear a mark from its letter; ``at`` where there is none."""
    for place in range(at, at // 2, -1):
        if (
            not unicodedata.category(text[place]).startswith("M")
            and "\N{ZERO WIDTH JOINER}" not in (text[place - 1 : place + 1])
        ):
            return place
    return at


def _has_sound(part: str) -> bool:
    """Whether a letter, a number or a symbol is in it."""
    return any(unicodedata.category(character)[0] in "LNS" for character in part)


def _language_of(text: str) -> str:
    names = [unicodedata.name(character, "") for character in text[:_LOOKED_AT] if character.isalpha()]
    for script, code in _SCRIPTS:
        if any(name.startswith(script) for name in names):
            return code
    return "en"
