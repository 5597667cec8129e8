"""The field ``voice`` of a request.

A name, ``{"id": name}``, ``{"audio": base64, "text": words}`` or ``{"design": words}``. The last two are a recording,
or a description, of a voice that shall speak this once. Nothing that a client sends is opened as a path or an address:
the recording is what the field holds.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from ..audio import decode, recording_checks
from ..errors import InvalidValue, shown
from ..speech import text
from ..speech.request import CloneReference

#: What the models that clone voices listen to, in Hz, and how long a recording may be, in seconds.
SAMPLE_RATE, _MOST_SECONDS = 24_000, 60.0
_KINDS = (
    'a name, {"id": "NAME"}, {"audio": "BASE64", "text": "WHAT IS SAID IN IT"} or {"design": "DESCRIPTION"}'
)


@dataclass(frozen=True)
class Voice:
    """Who shall speak: a name, a recording, a description, or whoever the model has where all are None."""

    name: str | None = None
    recording: CloneReference | None = None
    design: str | None = None


def read(value: str | dict[str, Any] | None, *, max_bytes: int, max_chars: int) -> Voice:
    """The voice that a request asks for; a recording has at most ``max_bytes``, a description ``max_chars``.

    Without ``text`` only the sound of the voice is taken. Raises InvalidValue for anything else than the four
    forms, and for a recording from which no voice can be taken; InputTooLong.
    """
    if value is None or isinstance(value, str):
        return Voice(name=value)
    if unknown := [name for name in value if name not in ("id", "audio", "text", "design")]:
        raise InvalidValue(f"`voice` has {shown(unknown[0])}: it is {_KINDS}", param="voice")
    for name, part in value.items():
        if not isinstance(part, str):
            raise InvalidValue(f"`voice.{name}` is {shown(part)}: it must be a string", param="voice")
    if value.keys() == {"id"}:
        return Voice(name=value["id"])
    if value.keys() == {"design"}:
        return Voice(design=text.clean(value["design"], max_chars=max_chars, param="voice.design"))
    if "audio" not in value or value.keys() - {"audio", "text"}:
        raise InvalidValue(
            f"`voice` has {', '.join(value) or 'nothing in it'}: it is {_KINDS}", param="voice"
        )
    try:
        content = base64.b64decode(value["audio"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidValue(
            f"`voice.audio` is not base64: {error}; send the bytes of the recording in the standard alphabet, "
            "without line breaks and no address",
            param="voice",
        ) from error
    return Voice(recording=heard(content, value.get("text"), max_bytes=max_bytes, param="voice.audio"))


def heard(content: bytes, words: str | None, *, max_bytes: int, param: str) -> CloneReference:
    """The recording in ``content``, in which ``words`` are said. Raises InvalidValue in the name of ``param``."""
    waveform = decode.decode(
        content, sample_rate=SAMPLE_RATE, max_bytes=max_bytes, max_seconds=_MOST_SECONDS, param=param
    )
    recording_checks.check(waveform, SAMPLE_RATE, param=param)
    return CloneReference(waveform, SAMPLE_RATE, words)
