"""The client against answers that the service itself does not give: proxies, other servers, cuts, silence."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from qwen3_tts_service.client import voices
from qwen3_tts_service.client.server import Server
from qwen3_tts_service.client.speech import speak
from qwen3_tts_service.errors import (
    BrokeOff,
    EngineError,
    InvalidRequest,
    InvalidValue,
    TTSError,
    Unauthorized,
    Unavailable,
)

EVENTS = "text/event-stream"
DONE = b'data: {"type": "speech.audio.done", "seed": 7}\n\n'


def delta(content: bytes) -> bytes:
    event = {"type": "speech.audio.delta", "audio": base64.b64encode(content).decode()}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


class Planted:
    """A server that answers what a test wants; with ``silent`` it sends that and then nothing more."""

    def __init__(self) -> None:
        self.status, self.content, self.headers = 200, b"", {"Content-Type": EVENTS}
        self.paths: list[str] = []
        self.authorizations: list[str | None] = []
        self.silent = threading.Event()
        self.over = threading.Event()
        planted = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                planted.paths.append(self.path)
                planted.authorizations.append(self.headers.get("Authorization"))
                self.send_response(planted.status)
                for name, value in planted.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(planted.content)
                if planted.silent.is_set():
                    planted.over.wait()

            do_POST = do_GET  # noqa: N815 - the name is the method's of HTTP

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def planted() -> Iterator[Planted]:
    planted = Planted()
    thread = threading.Thread(target=planted.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield planted
    planted.over.set()
    planted.server.shutdown()
    thread.join()
    planted.server.server_close()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (413, InvalidRequest),
        (401, Unauthorized),
        (403, Unauthorized),
        (421, Unauthorized),
        (429, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
        (500, EngineError),
        (502, EngineError),
    ],
)
def test_what_a_proxy_says_is_quoted_and_its_status_decides(
    planted: Planted, status: int, kind: type[TTSError]
) -> None:
    planted.status, planted.content = status, b"<h1>proxy</h1>"
    planted.headers["Retry-After"] = "7"
    with pytest.raises(kind, match=f"the server answers {status}: <h1>proxy</h1>") as raised:
        voices.all_voices(Server(planted.address))
    if isinstance(raised.value, Unavailable):
        assert raised.value.retry_after_s == 7


def test_an_answer_of_something_else_is_said_so(planted: Planted) -> None:
    planted.content = b"It works!"
    with pytest.raises(EngineError, match="no answer of this service: It works!"):
        voices.all_voices(Server(planted.address))
    planted.headers["Content-Type"] = "audio/mpeg"
    with (
        pytest.raises(EngineError, match="audio/mpeg in place of events"),
        speak(Server(planted.address), {"input": "Hi."}),
    ):
        pass


def test_the_address_may_have_a_path_and_the_key_is_sent(planted: Planted) -> None:
    planted.content = b'{"voices": []}'
    assert voices.all_voices(Server(f"{planted.address}/tts/", "secret")) == []
    assert planted.paths == ["/tts/v1/audio/voices"]
    assert planted.authorizations == ["Bearer secret"]


@pytest.mark.parametrize("address", ["127.0.0.1:8100", "ftp://a", "http://", "http://a:b", "http://a:99999"])
def test_what_is_no_address_is_named(address: str) -> None:
    with pytest.raises(InvalidValue):
        Server(address)


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_events_become_sound_and_facts(planted: Planted, ends: str) -> None:
    planted.content = (delta(b"one") + delta(b"two") + DONE).replace(b"\n", ends.encode())
    with speak(Server(planted.address), {"input": "Hi."}) as speech:
        assert b"".join(speech) == b"onetwo"
        assert speech.facts == {"seed": 7}


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (b"", "journal"),
        (DONE[:20], "within an event"),
        (b"<html>", "journal"),
        (b"data: [1]\n\n", "no event of this service"),
        (b'data: {"type": "speech.audio.delta", "audio": "?"}\n\n', "no event of this service"),
        (b'data: {"type": "error", "error": {"message": "out of time"}}\n\n', "broke off: out of time"),
    ],
)
def test_without_its_end_a_speech_broke_off(planted: Planted, rest: bytes, words: str) -> None:
    planted.content = delta(b"one") + rest
    heard = []
    with (
        pytest.raises(BrokeOff, match=words),
        speak(Server(planted.address), {"input": "Hi."}) as speech,
    ):
        heard.extend(speech)
    assert heard == [b"one"]


def test_a_server_that_falls_silent_is_given_up(planted: Planted) -> None:
    planted.content = delta(b"one")
    planted.silent.set()
    with (
        pytest.raises(BrokeOff, match=r"nothing for 0\.2 s"),
        speak(Server(planted.address, timeout_s=0.2), {"input": "Hi."}) as speech,
    ):
        list(speech)
