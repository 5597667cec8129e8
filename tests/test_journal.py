"""A request's line: fields for journald, a plain line elsewhere, and no text unless that is wanted."""

from __future__ import annotations

import io
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen3_tts_service import journal

REQUEST: dict[str, Any] = {
    "request_id": "0f0f",
    "key_name": "kitchen",
    "model": "base",
    "voice": "ryan",
    "language": None,
    "characters": 12,
    "audio_s": 1.5,
    "queue_s": 0.25,
    "first_audio_s": 0.125,
    "compute_s": 0.75,
    "finish": "stop",
}
LINE = (
    "0f0f key=kitchen model=base voice=ryan language=None characters=12 audio=1.50s queue=0.25s first=0.125s "
)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the process writes to standard output under systemd."""
    output = io.StringIO()
    handler = journal.JournalHandler(output)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [handler])
    before = root.level
    # Not the attribute: loggers remember what was too little for the level before.
    root.setLevel(logging.INFO)
    yield output
    root.setLevel(before)
    handler.close()


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.setattr(journal, "_SOCKET", str(tmp_path / "socket"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.settimeout(5)
        yield listening


def fields(datagram: bytes) -> dict[str, str]:
    """As journald takes a datagram apart."""
    found = {}
    while datagram:
        head, _, rest = datagram.partition(b"\n")
        name, sign, value = head.partition(b"=")
        if not sign:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        found[name.decode()] = value.decode()
        datagram = rest
    return found


def test_journald_gets_fields(written: io.StringIO, journald: socket.socket) -> None:
    journal.request(**REQUEST)
    told = fields(journald.recv(1 << 16))
    assert told.pop("MESSAGE") == f"qwen3_tts_service.requests: {LINE}compute=0.75s finish=stop"
    assert told == {
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "qwen3-tts",
        "MESSAGE_ID": journal.REQUEST_MESSAGE_ID,
        "REQUEST_ID": "0f0f",
        "KEY_NAME": "kitchen",
        "MODEL": "base",
        "VOICE": "ryan",
        "CHARACTERS": "12",
        "AUDIO_S": "1.500",
        "QUEUE_S": "0.250",
        "FIRST_AUDIO_S": "0.125",
        "COMPUTE_S": "0.750",
        "FINISH": "stop",
    }
    assert written.getvalue() == "", "nothing twice"


def test_what_is_spoken_is_logged_only_when_it_is_given(
    written: io.StringIO, journald: socket.socket
) -> None:
    text = "One line.\nMESSAGE=another, \u4f60\u597d"
    journal.request(**REQUEST, text=text)
    told = fields(journald.recv(1 << 16))
    assert told["TEXT"] == text
    assert told["MESSAGE"].endswith(f"finish=stop text={text!r}")
    journal.request(**REQUEST)
    assert b"TEXT" not in journald.recv(1 << 16)


def test_without_journald_the_line_stays(
    written: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_SOCKET", str(tmp_path / "none"))
    journal.request(**REQUEST | {"first_audio_s": None, "finish": "cancelled"})
    assert written.getvalue().startswith("<6>qwen3_tts_service.requests: 0f0f key=kitchen ")
    assert written.getvalue().endswith("first=- compute=0.75s finish=cancelled\n")


def test_a_text_that_no_datagram_holds_is_a_line(written: io.StringIO, journald: socket.socket) -> None:
    journal.request(**REQUEST, text="x" * 10_000_000)
    assert "finish=stop text='xxx" in written.getvalue()


def test_other_lines_have_no_fields(written: io.StringIO, journald: socket.socket) -> None:
    logging.getLogger("qwen3_tts_service").warning("two\nlines")
    assert written.getvalue() == "<4>qwen3_tts_service: two\n<4>lines\n"
