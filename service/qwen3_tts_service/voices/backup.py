"""All saved voices as one file: a safetensors file whose metadata holds the words of each.

Tensors are called ``ID/speaker_embedding`` and ``ID/codes``; ``version`` is that of this form. (It is also why a backup
without voices can be read: safetensors writes a file without tensors, but with metadata, that it then refuses.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from ..errors import InvalidValue
from .saved import SavedVoice, Words, from_tensors, pack, to_tensors, unpack

_VERSION = np.array([1], np.int16)
_WORDS = TypeAdapter(list[Words])


def write(voices: Sequence[SavedVoice]) -> bytes:
    """The file that :func:`read` takes."""
    tensors: dict[str, npt.NDArray[Any]] = {"version": _VERSION}
    tensors |= {
        f"{voice.words.id}/{name}": tensor
        for voice in voices
        for name, tensor in to_tensors(voice.prompt).items()
    }
    words = _WORDS.dump_json([voice.words for voice in voices]).decode()
    return pack(tensors, {"voices": words})


def read(content: bytes) -> list[SavedVoice]:
    """The voices of a backup, every one of them checked. Raises InvalidValue with what is wrong."""
    try:
        tensors, metadata = unpack(content)
        if not np.array_equal(tensors.pop("version", np.zeros(0)), _VERSION):
            raise ValueError(f"its version is not {_VERSION[0]}, which is the one that is read here")
        every = _WORDS.validate_json(metadata.get("voices", ""))
        if len({words.id for words in every}) < len(every):
            raise ValueError("an id occurs twice")
        if len({words.name.casefold() for words in every}) < len(every):
            raise ValueError("a name occurs twice")
        parts: dict[str, dict[str, npt.NDArray[Any]]] = {words.id: {} for words in every}
        for name, tensor in tensors.items():
            owner, _, part = name.partition("/")
            if owner not in parts:
                raise ValueError("it has tensors of a voice that it does not name")
            parts[owner][part] = tensor
        return [SavedVoice(words, from_tensors(parts[words.id], words)) for words in every]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _damaged(f"voice {where}: {first['msg']}" if where else first["msg"]) from error
    except ValueError as error:
        raise _damaged(str(error)) from error


def _damaged(what: str) -> InvalidValue:
    return InvalidValue(
        f"the body is no backup of voices: {what}. Send the file that GET /v1/audio/voices/export gave, unchanged; "
        "nothing was imported",
        param="body",
    )
