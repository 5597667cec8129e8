"""The bodies that clients send. Unknown fields are refused: a misspelt one must not be ignored."""

from __future__ import annotations

import json
from typing import Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import InvalidRequest, InvalidValue, shown


class SpeechBody(BaseModel):
    """``POST /v1/audio/speech``: OpenAI's fields, and ``language`` and ``seed``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: str
    model: str | None = None
    #: See ``voice_field.py``.
    voice: str | dict[str, Any] | None = None
    instructions: str | None = None
    response_format: str = "mp3"
    speed: float = 1.0
    stream_format: Literal["audio"] = "audio"
    language: str | None = None
    seed: int | None = Field(None, ge=0, lt=1 << 63)


#: Fields of other servers that unmodified clients send and that change nothing here.
TOLERATED = ("stream", "user")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def parse(body: bytes) -> tuple[SpeechBody, list[str]]:
    """Read a request body; which of the :data:`TOLERATED` fields it has comes with it.

    Raises InvalidRequest naming the field, its value and what is allowed.
    """
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
    ignored = [name for name in TOLERATED if name in content]
    for name in ignored:
        del content[name]
    # Before pydantic: it cannot name a field whose name is half of a surrogate pair.
    if unknown := [shown(name) for name in content if name not in SpeechBody.model_fields]:
        fields = ", ".join(SpeechBody.model_fields)
        raise InvalidValue(
            f"{unknown[0]} is no field of this endpoint; there are {fields}", param=unknown[0][1:-1]
        )
    try:
        return SpeechBody.model_validate(content), ignored
    except ValidationError as error:
        raise _explained(error) from error


def _explained(error: ValidationError) -> InvalidValue:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])
    if first["type"] == "missing":
        return InvalidValue(f"`{name}` is missing", param=name)
    message = first["msg"][0].lower() + first["msg"][1:]
    return InvalidValue(f"`{name}` is {shown(first['input'])}: {message}", param=name)
