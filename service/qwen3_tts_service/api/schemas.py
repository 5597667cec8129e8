"""The bodies that clients send. Unknown fields are refused: a misspelt one must not be ignored."""

from __future__ import annotations

import json
from typing import Any, Literal, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import InvalidRequest, InvalidValue, shown
from ..speech.parts import Split
from ..speech.request import DRAWING

Body = TypeVar("Body", bound=BaseModel)


class SpeechBody(BaseModel):
    """``POST /v1/audio/speech``: OpenAI's fields, and what a model can be told besides."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: str = Field(description="The text. A longer one than a breath is spoken in parts, see `split`.")
    model: str | None = Field(None, description="A name of /v1/models or an alias; none: whichever fits.")
    voice: str | dict[str, Any] | None = Field(
        None,
        description='A name of /v1/audio/voices, {"id": NAME}, a recording: {"audio": BASE64, "text": WORDS}, or a '
        'description: {"design": WORDS}.',
    )
    instructions: str | None = Field(None, description="How it shall be said, or who speaks, in words.")
    response_format: str = Field("mp3", description="mp3, opus, aac, flac, wav or pcm.")
    speed: float = Field(1.0, description="0.25 to 4, at the same pitch.")
    stream: bool = Field(True, description="false: one answer with its length, when all of it is made.")
    stream_format: Literal["audio", "sse"] = Field(
        "audio", description="audio: the bytes of the format; sse: events with base64 of them."
    )
    language: str | None = Field(None, description="A language of /v1/models; none: the model decides.")
    seed: int | None = Field(
        None, ge=0, lt=1 << 63, description="The same seed gives the same speech; none: the answer tells one."
    )
    max_seconds: float | None = Field(None, gt=0, description="Longest speech, in seconds at speed 1.")
    split: Split = Field(
        "paragraph",
        description="Where a long text may be cut into parts that are spoken one after the other.",
    )
    pause: float = Field(0.0, ge=0, le=10, description="Silence between the parts, in seconds.")
    temperature: float | None = Field(None, description="Higher is livelier; none: the model's own.")
    top_k: int | None = Field(None, description="As many of the likeliest candidates are kept; 0: all.")
    top_p: float | None = Field(None, description="The likeliest that together have this probability.")
    repetition_penalty: float | None = Field(None, description="Above 1 makes repetitions less likely.")
    subtalker_temperature: float | None = Field(None, description="As temperature, for the sound's details.")
    subtalker_top_k: int | None = Field(None, description="As top_k, for the sound's details.")
    subtalker_top_p: float | None = Field(None, description="As top_p, for the sound's details.")
    greedy: bool | None = Field(None, description="true: the likeliest code each time, for comparisons.")

    @property
    def drawing(self) -> tuple[tuple[str, Any], ...]:
        """What is wanted of the sampling, by the names of :class:`..speech.request.Sampling`."""
        given = ((name, getattr(self, name)) for name in (*DRAWING, "greedy"))
        return tuple((name, value) for name, value in given if value is not None)


class BatchBody(BaseModel):
    """``POST /v1/audio/speech/batch``: what all have in common, and what each has of its own."""

    model_config = ConfigDict(extra="forbid", strict=True)

    items: list[dict[str, Any]] = Field(
        min_length=1, max_length=32, description="Bodies of /v1/audio/speech, at most 32."
    )
    defaults: dict[str, Any] = Field(
        default_factory=dict, description="Fields of every item that does not have them itself."
    )


class DesignBody(BaseModel):
    """``POST /v1/audio/voices``: a voice after a description, heard in one sentence."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(description="What the voice shall be called.")
    design: str = Field(description="What the voice is like, in words.")
    text: str = Field(description="What it says to be heard: a sentence or two.")
    language: str | None = Field(None, description="The language of the text; none: the model decides.")
    seed: int | None = Field(None, ge=0, lt=1 << 63, description="The same seed gives the same voice.")
    model: str | None = Field(None, description="The base model that takes the voice; none: the first.")


class RenameBody(BaseModel):
    """``PATCH /v1/audio/voices/{id}``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(description="What the voice shall be called.")


#: Fields of other servers that unmodified clients send and that change nothing here.
TOLERATED = ("user",)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def parse(body: bytes) -> tuple[SpeechBody, list[str]]:
    """Read the body of a request for speech; which of the :data:`TOLERATED` fields it has comes with it.

    Raises InvalidRequest naming the field, its value and what is allowed.
    """
    return speech(_object(body))


def parse_as(kind: type[Body], body: bytes) -> Body:
    """Read a body of that kind; the items of a batch are not looked into. Raises as :func:`parse`."""
    return _validated(kind, _object(body))


def speech(content: dict[str, Any]) -> tuple[SpeechBody, list[str]]:
    """As :func:`parse`, of a body that was read."""
    ignored = [name for name in TOLERATED if name in content]
    kept = {name: value for name, value in content.items() if name not in ignored}
    return _validated(SpeechBody, kept), ignored


def _object(body: bytes) -> dict[str, Any]:
    try:
        content: Any = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deeply; it is one object of plain fields") from error
    except ValueError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidRequest("the body is not a JSON object")
    return content


def _validated(kind: type[Body], content: dict[str, Any]) -> Body:
    # Before pydantic: it cannot name a field whose name is half of a surrogate pair.
    if unknown := [shown(name) for name in content if name not in kind.model_fields]:
        fields = ", ".join(kind.model_fields)
        raise InvalidValue(
            f"{unknown[0]} is no field of this endpoint; there are {fields}", param=unknown[0][1:-1]
        )
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise _explained(error) from error


def _explained(error: ValidationError) -> InvalidValue:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])
    if first["type"] == "missing":
        return InvalidValue(f"`{name}` is missing", param=name)
    message = first["msg"][0].lower() + first["msg"][1:]
    return InvalidValue(f"`{name}` is {shown(first['input'])}: {message}", param=name)
