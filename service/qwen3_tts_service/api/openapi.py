"""``GET /openapi.json``: the interface for machines, made of the same classes that read the bodies."""

from __future__ import annotations

from typing import Any, get_args

from flask import Blueprint, Response, jsonify
from pydantic import BaseModel

from ..checkpoints.download_state import Step
from ..lifecycle import State
from ..speech.formats import CONTENT_TYPES, FASTEST, SLOWEST
from .schemas import TOLERATED, BatchBody, DesignBody, RenameBody, SpeechBody

_SPEECH_EXAMPLE = {"input": "Good morning.", "voice": "alloy", "response_format": "mp3"}
_BATCH_EXAMPLE = {
    "items": [{"input": "Good morning."}, {"input": "Good night."}],
    "defaults": {"voice": "alloy", "response_format": "opus"},
}
_DESIGN_EXAMPLE = {
    "name": "Narrator",
    "design": "A deep, calm voice of an old man.",
    "text": "This is how I sound when I read to you.",
}
_RECORDING = {
    "type": "object",
    "required": ["name", "audio", "consent"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "description": "What the voice shall be called."},
        "audio": {
            "type": "string",
            "format": "binary",
            "description": "wav, mp3, flac, ogg or m4a, 1 to 60 s.",
        },
        "consent": {"const": "true", "description": "The person whose voice it is agreed."},
        "ref_text": {"type": "string", "description": "What is said in it; none: only its sound is taken."},
        "language": {"type": "string", "description": "What the voice speaks."},
        "model": {"type": "string", "description": "The base model that takes the voice; none: the first."},
    },
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_COUNT = {"type": "integer", "minimum": 0}
_SECONDS = {"type": "number", "minimum": 0}
_LEFT = {"type": ["number", "null"], "minimum": 0, "description": "null: nobody knows."}
_READY = {
    "type": "object",
    "required": ["status", "reason", "model"],
    "properties": {
        "status": {"enum": [word for words in get_args(State) for word in get_args(words)]},
        "reason": {"type": "string"},
        "model": {"type": "string"},
        "download": {
            "type": "object",
            "description": "How far the weights are, while they are missing; sizes in bytes.",
            "properties": {
                "state": {"enum": [*get_args(Step)]},
                "file": {"type": "string"},
                "bytes": _COUNT,
                "total_bytes": _COUNT,
                "bytes_per_second": _COUNT,
                "remaining_seconds": _LEFT,
            },
        },
        "loading": {
            "type": "object",
            "description": "How far the model is, while it is loaded; it takes about as long as the last time.",
            "properties": {
                "total_bytes": _COUNT,
                "elapsed_seconds": _SECONDS,
                "remaining_seconds": _LEFT,
            },
        },
    },
}
_TIMEOUT = {
    "name": "X-Timeout",
    "in": "header",
    "description": "Seconds that all of the answer may take, at most the server's own limit.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}
#: What a request that is fine in itself can be answered with, besides its result.
_BUSY = {429: "No room in the queue, see Retry-After", 503: "Not ready, see Retry-After"}
_FAILED = {500: "The engine failed", 504: "Not finished within its time"}


def blueprint() -> Blueprint:
    """The document's endpoint."""
    routes = Blueprint("openapi", __name__)
    told = document()

    @routes.get("/openapi.json")
    def openapi() -> Response:
        return jsonify(told)

    return routes


def document() -> dict[str, Any]:
    """The OpenAPI document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Qwen3-TTS speech server", "version": "1"},
        "paths": _paths(),
        "components": {
            "schemas": {
                "Speech": _speech(),
                "Batch": _body(BatchBody, _BATCH_EXAMPLE),
                "Recording": _RECORDING,
                "Design": _body(DesignBody, _DESIGN_EXAMPLE),
                "Rename": _body(RenameBody, {"name": "Narrator"}),
                "Error": _ERROR,
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        # Both: a server without keys asks for none.
        "security": [{"key": []}, {}],
    }


def _paths() -> dict[str, Any]:
    formats: dict[str, Any] = {
        kind: {"schema": {}} for kind in (*CONTENT_TYPES.values(), "text/event-stream")
    }
    request_id = {"name": "request_id", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "/v1/audio/speech": {
            "post": _operation(
                "Speak a text; the sound is sent while it is made",
                takes="Speech",
                parameters=[_TIMEOUT],
                gives=formats,
                errors=_BUSY | _FAILED | {404: "No such model"},
            )
        },
        "/v1/audio/speech/batch": {
            "post": _operation(
                "Speak many texts; each has a result of its own",
                takes="Batch",
                parameters=[_TIMEOUT],
                gives=_json({"type": "object"}),
                errors={429: "Too many requests, see Retry-After"},
            )
        },
        "/v1/audio/speech/{request_id}": {
            "get": _operation(
                "How a request for speech goes, or went",
                parameters=[request_id],
                gives=_json({"type": "object"}),
                errors={404: "Not of the last minutes, or another key's"},
            )
        },
        **_voices(),
        "/v1/models": {
            "get": _operation("The served models", gives=_json(_list_of("data")), errors={503: _BUSY[503]})
        },
        "/health": {"get": _operation("The process lives", gives=_json({"type": "object"}))},
        "/ready": {"get": _operation("It can speak, or why not", gives=_json(_READY), not_ready=True)},
        "/metrics": {
            "get": _operation("For Prometheus", gives={"text/plain": {"schema": {"type": "string"}}})
        },
    }


def _voices() -> dict[str, Any]:
    voice_id = {"name": "voice_id", "in": "path", "required": True, "schema": {"type": "string"}}
    backup = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    a_voice = _json({"type": "object", "required": ["id", "name"]})
    unknown = {404: "No such voice"}
    unkept = {
        501: "No place to keep voices",
        503: "Not ready, or the disk fails, see Retry-After",
        507: "No room for more voices",
    }
    return {
        "/v1/audio/voices": {
            "get": _operation("Who can speak", gives=_json(_list_of("voices")), errors={503: _BUSY[503]}),
            "post": _operation(
                "Save a voice, of a recording or of a description",
                takes={
                    "multipart/form-data": {"schema": {"$ref": "#/components/schemas/Recording"}},
                    **_json({"$ref": "#/components/schemas/Design"}),
                },
                gives=a_voice,
                made=True,
                errors=_BUSY | _FAILED | unkept | {404: "No such model"},
            ),
        },
        "/v1/audio/voices/{voice_id}": {
            "get": _operation("A saved voice", parameters=[voice_id], gives=a_voice, errors=unknown),
            "patch": _operation(
                "Rename a saved voice",
                parameters=[voice_id],
                takes="Rename",
                gives=a_voice,
                errors=unknown | unkept,
            ),
            "delete": _operation(
                "Remove a saved voice",
                parameters=[voice_id],
                gives=_json({"type": "object"}),
                errors=unknown | {503: unkept[503]},
            ),
        },
        "/v1/audio/voices/export": {"get": _operation("All saved voices as one file", gives=backup)},
        "/v1/audio/voices/import": {
            "post": _operation(
                "Keep the voices of such a file",
                takes=backup,
                gives=_json({"type": "object", "required": ["added", "unchanged"]}),
                errors=unkept,
            )
        },
    }


def _operation(
    summary: str,
    *,
    gives: dict[str, Any],
    takes: str | dict[str, Any] = "",
    made: bool = False,
    parameters: list[dict[str, Any]] | None = None,
    errors: dict[int, str] | None = None,
    not_ready: bool = False,
) -> dict[str, Any]:
    told = {
        401: "A key is needed",
        403: "A web page of another origin sent it",
        421: "It asks for a name that is not this server's",
        **(errors or {}),
    }
    if takes:
        told |= {
            400: "A field is wrong: `param` names it",
            413: "The body is too large",
            415: "Its `Content-Type` is another",
        }
    answers = {
        str(status): {"description": meaning, "content": _json({"$ref": "#/components/schemas/Error"})}
        for status, meaning in sorted(told.items())
    }
    if not_ready:
        answers["503"] = {"description": "Not ready", "content": gives}
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {"201" if made else "200": {"description": "As asked", "content": gives}, **answers},
    }
    if takes:
        content = takes if isinstance(takes, dict) else _json({"$ref": f"#/components/schemas/{takes}"})
        operation["requestBody"] = {"required": True, "content": content}
    if parameters:
        operation["parameters"] = parameters
    return operation


def _speech() -> dict[str, Any]:
    schema = _body(SpeechBody, _SPEECH_EXAMPLE)
    schema["properties"]["response_format"]["enum"] = list(CONTENT_TYPES)
    schema["properties"]["speed"] |= {"minimum": SLOWEST, "maximum": FASTEST}
    schema["properties"] |= {name: {"description": "Changes nothing."} for name in TOLERATED}
    return schema


def _body(kind: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    return kind.model_json_schema() | {"examples": [example]}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _list_of(name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "required": [name],
        "properties": {name: {"type": "array", "items": {"type": "object"}}},
    }
