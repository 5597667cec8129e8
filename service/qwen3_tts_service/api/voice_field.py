"""The field ``voice`` of a request: a name, ``{"id": name}``, or ``{"audio": base64, "text": words}``.

The last is a recording whose voice shall speak this once. Nothing that a client sends is opened as a path or
an address: the recording is what the field holds.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from ..audio import decode, recording_checks
from ..errors import InvalidValue, shown
from ..speech.request import CloneReference

#: What the models that clone voices listen to, in Hz, and how long a recording may be, in seconds.
_SAMPLE_RATE, _MOST_SECONDS = 24_000, 60.0
_KINDS = 'a name, {"id": "NAME"} or {"audio": "BASE64", "text": "WHAT IS SAID IN IT"}'


@dataclass(frozen=True)
class Voice:
    """Who shall speak: a name, a recording, or whoever the model has where both are None."""

    name: str | None = None
    recording: CloneReference | None = None


def read(value: str | dict[str, Any] | None, *, max_bytes: int) -> Voice:
    """The voice that a request asks for; a recording has at most ``max_bytes``.

    Without ``text`` only the sound of the voice is taken. Raises InvalidValue for anything else than the three
    forms, and for a recording from which no voice can be taken.
    """
    if value is None or isinstance(value, str):
        return Voice(name=value)
    if unknown := [name for name in value if name not in ("id", "audio", "text")]:
        raise InvalidValue(f"`voice` has {shown(unknown[0])}: it is {_KINDS}", param="voice")
    for name, part in value.items():
        if not isinstance(part, str):
            raise InvalidValue(f"`voice.{name}` is {shown(part)}: it must be a string", param="voice")
    if value.keys() == {"id"}:
        return Voice(name=value["id"])
    if "audio" not in value or "id" in value:
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
    waveform = decode.decode(
        content, sample_rate=_SAMPLE_RATE, max_bytes=max_bytes, max_seconds=_MOST_SECONDS, param="voice.audio"
    )
    recording_checks.check(waveform, _SAMPLE_RATE, param="voice.audio")
    return Voice(recording=CloneReference(waveform, _SAMPLE_RATE, value.get("text")))
