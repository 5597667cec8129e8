"""``/v1/audio/voices``: who can speak, and the voices that a server keeps."""

from __future__ import annotations

import secrets
import urllib.parse
from typing import Any

from ..errors import NoSuchVoice, UnknownVoice, shown
from .server import Server, parsed

_PATH = "/v1/audio/voices"
_BACKUP = "application/octet-stream"
#: Voices that come with a checkpoint, and names that stand for them: nothing to rename or remove.
_NOT_SAVED = ("speaker", "alias")


def all_voices(server: Server) -> list[dict[str, Any]]:
    """Everybody who can speak, the server's first choice first."""
    voices: list[dict[str, Any]] = server.ask_json("GET", _PATH)["voices"]
    return voices


def find(server: Server, wanted: str) -> dict[str, Any]:
    """All that is told of one voice, by its id or its name. Raises UnknownVoice."""
    voices = all_voices(server)
    for field in ("id", "name"):
        for voice in voices:
            if str(voice[field]).casefold() == wanted.casefold():
                if voice.get("kind") in _NOT_SAVED:
                    return voice
                whole: dict[str, Any] = server.ask_json("GET", _path(voice["id"]))
                return whole
    raise UnknownVoice(
        f"voice {shown(wanted)} is not known: `qwen3-tts voices list` names all", param="voice"
    )


def saved(server: Server, wanted: str) -> str:
    """The id of a saved voice. Raises UnknownVoice, and NoSuchVoice for one that came with the checkpoint."""
    voice = find(server, wanted)
    if voice.get("kind") in _NOT_SAVED:
        raise NoSuchVoice(
            f"{shown(wanted)} is a voice of the checkpoint {shown(voice['model'])}: only saved voices change",
            param="voice",
        )
    return str(voice["id"])


def add(server: Server, recording: bytes, fields: dict[str, str]) -> dict[str, Any]:
    """Save the voice of a recording; ``fields`` are the form's."""
    content_type, body = form(fields, recording)
    voice: dict[str, Any] = parsed(server.ask("POST", _PATH, body, content_type), _PATH)
    return voice


def design(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    """Save a voice that a description makes."""
    voice: dict[str, Any] = server.ask_json("POST", _PATH, body)
    return voice


def rename(server: Server, voice_id: str, name: str) -> dict[str, Any]:
    """Give a saved voice another name."""
    voice: dict[str, Any] = server.ask_json("PATCH", _path(voice_id), {"name": name})
    return voice


def remove(server: Server, voice_id: str) -> dict[str, Any]:
    """Forget a saved voice."""
    told: dict[str, Any] = server.ask_json("DELETE", _path(voice_id))
    return told


def exported(server: Server) -> bytes:
    """All saved voices as one file."""
    return server.ask("GET", f"{_PATH}/export")


def import_(server: Server, content: bytes) -> dict[str, Any]:
    """Bring back what :func:`exported` gave; tells the ids that were ``added`` and that were ``unchanged``."""
    told: dict[str, Any] = parsed(server.ask("POST", f"{_PATH}/import", content, _BACKUP), _PATH)
    return told


def form(fields: dict[str, str], recording: bytes) -> tuple[str, bytes]:
    """Content type and body of a form with the file ``audio`` (RFC 7578)."""
    boundary = secrets.token_hex(16)
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = 'Content-Disposition: form-data; name="audio"; filename="recording"\r\n'
    parts.append(f"--{boundary}\r\n{head}Content-Type: application/octet-stream\r\n\r\n".encode())
    parts += [recording, f"\r\n--{boundary}--\r\n".encode()]
    return f"multipart/form-data; boundary={boundary}", b"".join(parts)


def _path(voice_id: str) -> str:
    return f"{_PATH}/{urllib.parse.quote(voice_id, safe='')}"
