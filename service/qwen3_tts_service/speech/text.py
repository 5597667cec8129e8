"""What may be spoken: the checks of a text before it meets the tokenizer."""

from __future__ import annotations

import re
import unicodedata

from ..errors import InputTooLong, InvalidValue, shown

#: The tokenizer turns these into control tokens wherever they stand, so a text must not carry them.
_CONTROL_WORD = re.compile(r"<\|\w+\|>|<tts_\w+>")

#: Controls, invisible format characters and separators: a text of nothing else has no sound.
_SILENT = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})


def clean(text: str, *, max_chars: int, param: str = "input") -> str:
    """Return ``text`` as :func:`spoken`. Raises as :func:`check`."""
    check(text, max_chars=max_chars, param=param)
    return spoken(text)


def check(text: str, *, max_chars: int, param: str = "input") -> None:
    """Raise InputTooLong above ``max_chars`` characters, InvalidValue where there is nothing to speak, half of a
    surrogate pair, or a control word of the model such as ``<|im_end|>``.
    """
    if len(text) > max_chars:
        raise InputTooLong(
            f"`{param}` has {len(text)} characters, at most {max_chars} are allowed: split the text",
            param=param,
        )
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidValue(f"`{param}` holds half of a surrogate pair, which is no character", param=param)
    if found := _CONTROL_WORD.search(text):
        raise InvalidValue(
            f"`{param}` holds {shown(found[0])}, a control word of the model: leave it out", param=param
        )
    if all(unicodedata.category(character) in _SILENT for character in text):
        raise InvalidValue(f"`{param}` is empty: there is nothing to speak", param=param)


def spoken(text: str) -> str:
    """``text`` with spaces for control characters, without spaces at its ends."""
    return "".join(
        " " if unicodedata.category(character) == "Cc" else character for character in text
    ).strip()
