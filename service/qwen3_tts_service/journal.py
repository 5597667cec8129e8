"""Log lines for the journal: on standard output, with the priority that journald reads from ``<N>``.

A request's line has fields besides, so that ``journalctl KEY_NAME=kitchen -o json`` finds and counts. Standard output
cannot carry them: such a line goes to journald by its own protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL).
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Mapping
from itertools import starmap
from typing import TextIO

_PRIORITY = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}

#: Libraries that talk of normal things: clients that go away (waitress; we log our own line for each
#: request), defaults taken (qwen_tts).
_QUIET = {"waitress": logging.ERROR, "qwen_tts": logging.WARNING}

#: Where journald listens for messages with fields.
_SOCKET = "/run/systemd/journal/socket"
#: journald that is busy, or gone, must not hold up a request for longer (seconds).
_PATIENCE_S = 1.0
#: Finds the lines of all requests: ``journalctl MESSAGE_ID=...``.
REQUEST_MESSAGE_ID = "4ee10a42cada4810b3248de05ce2b668"

_requests = logging.getLogger(f"{__package__}.requests")


def request(
    *,
    request_id: str,
    key_name: str,
    model: str,
    voice: str | None,
    language: str | None,
    characters: int,
    audio_s: float,
    queue_s: float,
    first_audio_s: float | None,
    compute_s: float,
    finish: str,
    text: str | None = None,
) -> None:
    """Log one request that had its turn: a line, and its parts as fields in upper case where journald takes them.

    Durations are in seconds; ``first_audio_s`` from the request's arrival. ``text`` only where the operator wants what
    people have spoken in the journal.
    """
    fields: dict[str, object] = {
        "MESSAGE_ID": REQUEST_MESSAGE_ID,
        "REQUEST_ID": request_id,
        "KEY_NAME": key_name,
        "MODEL": model,
        "VOICE": voice,
        "LANGUAGE": language,
        "CHARACTERS": characters,
        "AUDIO_S": f"{audio_s:.3f}",
        "QUEUE_S": f"{queue_s:.3f}",
        "FIRST_AUDIO_S": None if first_audio_s is None else f"{first_audio_s:.3f}",
        "COMPUTE_S": f"{compute_s:.3f}",
        "FINISH": finish,
        "TEXT": text,
    }
    _requests.info(
        "%s key=%s model=%s voice=%s language=%s characters=%d audio=%.2fs queue=%.2fs first=%s compute=%.2fs "
        "finish=%s%s",
        request_id,
        key_name,
        model,
        voice,
        language,
        characters,
        audio_s,
        queue_s,
        "-" if first_audio_s is None else f"{first_audio_s:.3f}s",
        compute_s,
        finish,
        "" if text is None else f" text={text!r}",
        extra={"journal_fields": {name: value for name, value in fields.items() if value is not None}},
    )


class JournalHandler(logging.StreamHandler[TextIO]):
    """Standard output, which journald reads; by journald's protocol what has fields."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setFormatter(JournalFormatter("%(name)s: %(message)s"))
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._sender.settimeout(_PATIENCE_S)

    def emit(self, record: logging.LogRecord) -> None:
        fields: Mapping[str, object] | None = getattr(record, "journal_fields", None)
        if fields is None or not self._sent(record, fields):
            super().emit(record)

    def _sent(self, record: logging.LogRecord, fields: Mapping[str, object]) -> bool:
        known = {
            "MESSAGE": f"{record.name}: {record.getMessage()}",
            "PRIORITY": _priority(record),
            "SYSLOG_IDENTIFIER": "qwen3-tts",
        }
        try:
            self._sender.sendto(b"".join(starmap(_field, {**known, **fields}.items())), _SOCKET)
        except OSError:
            # None there, or a text that is too long for one datagram: then the line alone.
            return False
        return True


def _field(name: str, value: object) -> bytes:
    """One field as journald reads it; a value of several lines goes with its length."""
    content = str(value).encode(errors="replace")
    if b"\n" not in content:
        return name.encode() + b"=" + content + b"\n"
    return name.encode() + b"\n" + len(content).to_bytes(8, "little") + content + b"\n"


def _priority(record: logging.LogRecord) -> int:
    return _PRIORITY[max((known for known in _PRIORITY if known <= record.levelno), default=logging.DEBUG)]


class JournalFormatter(logging.Formatter):
    """Prefix every line with ``<priority>``: journald keeps one priority a line, also inside a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_priority(record)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


def configure(level: str) -> None:
    """Send all log records of this process to standard output, as the journal or as a person reads them."""
    handler: logging.StreamHandler[TextIO]
    if "JOURNAL_STREAM" in os.environ:
        handler = JournalHandler(sys.stdout)
    else:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)
    logging.captureWarnings(True)
