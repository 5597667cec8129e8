"""What is kept of a voice, and the two forms that it is kept in: words as JSON, numbers as safetensors.

Whatever is read, from a disk or from a client, is checked here to the last number; nothing is ever unpickled.
"""

from __future__ import annotations

import json
import re
import secrets
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ..errors import InvalidValue, shown
from ..speech.request import VoicePrompt

LONGEST_NAME = 64
#: A minute of speech has fewer characters in every language; the model's prompt ends far below.
LONGEST_TEXT = 4096
#: A minute in frames of 80 ms, the last one begun, and the codebooks of each with their entries.
_MOST_FRAMES, _CODEBOOKS, _ENTRIES = 750, 16, 2048
#: The talker's hidden size is 1024 or 2048.
_LARGEST_EMBEDDING = 8192
_ID = re.compile(r"voice_[0-9a-f]{16}")

EMBEDDING, CODES = "speaker_embedding", "codes"
Tensors = Mapping[str, npt.NDArray[Any]]


def new_id() -> str:
    """An id that nobody can guess, safe in a path."""
    return f"voice_{secrets.token_hex(8)}"


def is_id(name: str) -> bool:
    """Whether ``name`` has the form of our ids."""
    return _ID.fullmatch(name) is not None


def clean_name(name: str) -> str:
    """``name`` as it is kept: Unicode's composed form, no spaces at its ends. Raises InvalidValue."""
    kept = unicodedata.normalize("NFC", name).strip()
    if not 1 <= len(kept) <= LONGEST_NAME:
        raise InvalidValue(
            f"`name` has {len(kept)} characters: it must have 1 to {LONGEST_NAME}", param="name"
        )
    # Controls, invisible characters, halves of pairs, separators of lines: a name is read by people.
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in kept):
        raise InvalidValue(f"`name` is {shown(kept)}: it may hold visible characters only", param="name")
    if is_id(kept):
        raise InvalidValue(f"`name` is {shown(kept)}: ids are given by the server", param="name")
    return kept


def _is_clean_name(name: str) -> str:
    try:
        kept = clean_name(name)
    except InvalidValue as error:
        raise ValueError(error.message) from error
    if kept != name:
        raise ValueError("it is not in Unicode's composed form, or has spaces at its ends")
    return name


class Words(BaseModel):
    """All that is kept of a voice but its numbers: the content of ``voice.json``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: str = Field(pattern=f"^{_ID.pattern}$")
    name: Annotated[str, AfterValidator(_is_clean_name)]
    #: What the voice speaks, as the checkpoints spell it; None: nobody said.
    language: str | None = Field(pattern=r"^[a-z_]{1,32}$")
    #: From a recording of a person, or of a voice that a model made after a description.
    kind: Literal["cloned", "designed"]
    #: What is said in the recording; None: only the sound of the voice was taken.
    ref_text: str | None = Field(min_length=1, max_length=LONGEST_TEXT)
    #: The person agreed; None where there is no person.
    consent: Literal[True] | None
    #: Seconds since 1970 (UTC).
    created: int = Field(ge=0, lt=1 << 40)
    #: The size of the checkpoints that the voice fits, as their ``config.json`` spells it.
    model_size: str = Field(pattern=r"^[0-9A-Za-z.]{1,16}$")

    @model_validator(mode="after")
    def _people_agreed(self) -> Words:
        if (self.kind == "cloned") != (self.consent is True):
            raise ValueError("a cloned voice has its person's consent, a designed one has no person")
        return self


@dataclass(frozen=True, eq=False)
class SavedVoice:
    """A voice that is kept."""

    words: Words
    prompt: VoicePrompt


def to_tensors(prompt: VoicePrompt) -> dict[str, npt.NDArray[Any]]:
    """The numbers of a voice as they are kept: codes are below 2048, so 16 bits hold them."""
    tensors: dict[str, npt.NDArray[Any]] = {
        EMBEDDING: np.ascontiguousarray(prompt.speaker_embedding, np.float32)
    }
    if prompt.codes is not None:
        tensors[CODES] = np.ascontiguousarray(prompt.codes, np.int16)
    return tensors


def from_tensors(tensors: Tensors, words: Words) -> VoicePrompt:
    """The voice of :func:`to_tensors`. Raises ValueError saying what is not as it should be."""
    wanted = {EMBEDDING} if words.ref_text is None else {EMBEDDING, CODES}
    if tensors.keys() != wanted:
        raise ValueError(f"it has the tensors {sorted(tensors)}, not {sorted(wanted)}")
    embedding = tensors[EMBEDDING]
    if embedding.dtype != np.float32 or embedding.ndim != 1 or not 1 <= len(embedding) <= _LARGEST_EMBEDDING:
        raise ValueError(
            f"{EMBEDDING} is {embedding.dtype} of shape {embedding.shape}, not float32 [1 to {_LARGEST_EMBEDDING}]"
        )
    if not np.isfinite(embedding).all():
        raise ValueError(f"{EMBEDDING} holds NaN or infinity")
    if words.ref_text is None:
        return VoicePrompt(embedding)
    codes = tensors[CODES]
    if codes.dtype != np.int16 or codes.shape[1:] != (_CODEBOOKS,) or not 1 <= len(codes) <= _MOST_FRAMES:
        raise ValueError(
            f"{CODES} is {codes.dtype} of shape {codes.shape}, not int16 [1 to {_MOST_FRAMES}, {_CODEBOOKS}]"
        )
    if codes.min() < 0 or codes.max() >= _ENTRIES:
        raise ValueError(f"{CODES} has entries outside 0 to {_ENTRIES - 1}")
    return VoicePrompt(embedding, codes.astype(np.int64), words.ref_text)


def pack(tensors: Tensors, metadata: dict[str, str] | None = None) -> bytes:
    """Tensors as the bytes of a safetensors file."""
    return safetensors.numpy.save(dict(tensors), metadata)


def unpack(content: bytes) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises ValueError for anything else."""
    try:
        parts = safetensors.deserialize(content)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise ValueError(f"it is no safetensors file: {error}") from error
    tensors: dict[str, npt.NDArray[Any]] = {}
    for name, part in parts:
        kind = {"F32": "<f4", "I16": "<i2"}.get(part["dtype"])
        if kind is None:
            raise ValueError(f"{shown(name)} is {part['dtype']}, not F32 or I16")
        tensors[name] = np.frombuffer(part["data"], kind).reshape(part["shape"])
    # The library reads these only from a file that has a name. It has parsed this header just now.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return tensors, header.get("__metadata__") or {}
