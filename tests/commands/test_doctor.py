"""The doctor against servers that are well and servers that are planted."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import threading
import wave
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from qwen3_tts_service.api.auth import KeyRing
from qwen3_tts_service.client.server import Server
from qwen3_tts_service.commands.doctor import Client, command
from qwen3_tts_service.errors import EngineError, TTSError, Unavailable
from server_process import Answer
from stand_in_engine import TONE, service

READY = {
    "status": "ready",
    "model": "m",
    "device": "cpu",
    "self_check": {"status": "skipped"},
    "ways": {"1": "compiled", "2": "compiled", "8": "eager"},
    "why_not_faster": {"8": "graphs need a GPU"},
    "codec": {"way": "eager", "why_not_faster": "no compiler"},
}


def run(port: int, *arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(
        command, ["--server", f"http://127.0.0.1:{port}", "--timeout", "10", *arguments], input=stdin
    )


def wav(samples: np.ndarray, rate: int = 24_000, channels: int = 1) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes((samples * 32767).astype("<i2").tobytes())
    return file.getvalue()


SECOND = np.tile(TONE, 10)


class Planted:
    """A server that answers what a test wants."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {
            "/ready": (200, json.dumps(READY).encode()),
            "/v1/audio/voices": (200, json.dumps({"voices": [{"id": "vivian"}]}).encode()),
            "/v1/audio/speech": (200, wav(SECOND)),
        }
        #: Bytes that are promised and never sent.
        self.missing = 0
        planted = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, content = planted.answers[self.path]
                self.send_response(status)
                self.send_header("Content-Length", str(len(content) + planted.missing))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET  # noqa: N815 - the name is the method's of HTTP

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]


@pytest.fixture
def planted() -> Iterator[Planted]:
    server = Planted()
    thread = threading.Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.server.shutdown()
    thread.join()
    server.server.server_close()


def test_a_healthy_server_is_described(planted: Planted) -> None:
    result = run(planted.port, "--json")
    assert result.exit_code == 0, result.output
    finding = json.loads(result.output)
    assert 0 <= finding.pop("first_audio_s") <= finding.pop("request_s")
    assert finding == {
        "model": "m",
        "device": "cpu",
        "voice": "vivian",
        "duration_s": 1.0,
        "loudness_dbfs": pytest.approx(-16.99, abs=0.02),
        "self_check": "skipped",
        "ways": "compiled, eager",
        "codec_way": "eager",
        "why_not_faster": "graphs need a GPU; no compiler",
    }
    assert "frames compiled, eager, codec eager" in run(planted.port).output
    assert "it could be faster: graphs need a GPU; no compiler" in run(planted.port).output
    assert "1.00 s of sound at -17.0 dBFS" in run(planted.port).output


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (wav(SECOND * 0), "loudness in dBFS is -inf, expected -60"),
        (wav(SECOND * 1e-3), "loudness in dBFS is -7"),
        (wav(np.sign(SECOND)), "loudness in dBFS is -0"),
        (wav(SECOND[:2400]), "duration in seconds is 0.10, expected 0.3"),
        (wav(SECOND[:0]), "empty"),
        (wav(SECOND)[:-1001], "cut off"),
        (wav(SECOND, rate=22_050), "22050"),
        (wav(SECOND, channels=2), "(2, 2, 24000)"),
        (b"<html>", "no WAV"),
        (b"", "no WAV"),
        (wav(SECOND)[:20], "no WAV"),
    ],
)
def test_bad_speech_is_detected(planted: Planted, content: bytes, words: str) -> None:
    planted.answers["/v1/audio/speech"] = (200, content)
    result = run(planted.port)
    assert isinstance(result.exception, EngineError)
    assert words in result.exception.message


def test_a_streamed_header_is_no_cut(planted: Planted) -> None:
    content = bytearray(wav(SECOND))
    content[4:8] = content[40:44] = b"\xff" * 4
    planted.answers["/v1/audio/speech"] = (200, bytes(content))
    assert "1.00 s of sound" in run(planted.port).output


def test_an_answer_that_breaks_off_is_said_so(planted: Planted) -> None:
    planted.answers["/v1/audio/speech"] = (200, wav(SECOND))
    client = Client(Server(f"http://127.0.0.1:{planted.port}", None, 10))
    planted.missing = 100
    with pytest.raises(EngineError, match="/v1/audio/speech broke off"):
        client.ask("/v1/audio/speech", {})


def test_the_voice_is_one_of_the_model_that_is_asked(planted: Planted) -> None:
    voices = [{"id": "eve", "model": "another"}, {"id": "ryan", "model": "m"}]
    planted.answers["/v1/audio/voices"] = (200, json.dumps({"voices": voices}).encode())
    assert json.loads(run(planted.port, "--json").output)["voice"] == "ryan"


@pytest.mark.parametrize(
    ("path", "status", "content", "words"),
    [
        ("/ready", 503, b'{"status": "loading", "reason": "the model is being loaded"}', "being loaded"),
        ("/ready", 200, b"<html>It works!</html>", "no answer of this service"),
        ("/ready", 200, b"{}", "no answer of this service"),
        ("/v1/audio/voices", 401, b"no key", "401: no key"),
        ("/v1/audio/speech", 500, b"engine_error", "500: engine_error"),
    ],
)
def test_other_answers_are_quoted(
    planted: Planted, path: str, status: int, content: bytes, words: str
) -> None:
    planted.answers[path] = (status, content)
    result = run(planted.port)
    assert isinstance(result.exception, TTSError)
    assert path in result.exception.message
    assert words in result.exception.message


def test_nobody_there_is_said_so(planted: Planted) -> None:
    planted.server.server_close()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        result = run(free.getsockname()[1])
    assert isinstance(result.exception, Unavailable)
    assert "is the unit running?" in result.exception.message


@pytest.mark.parametrize(
    "server", ["ftp://127.0.0.1", "127.0.0.1:8100", "http://127.0.0.1:99999", "http://a:b"]
)
def test_a_wrong_address_is_a_usage_error(server: str) -> None:
    result = CliRunner().invoke(command, ["--server", server])
    assert result.exit_code == 2
    assert "--server" in result.output


def test_the_key_comes_from_a_file_or_from_standard_input(tmp_path: Path) -> None:
    ring = KeyRing((("doctor", hashlib.sha256(b"key-of-the-doctor").digest()),))
    with service(ring) as running:
        running.engine.waveform = SECOND.astype(np.float32)
        file = tmp_path / "key"
        file.write_text("key-of-the-doctor\n")
        assert run(running.port, "--key-file", str(file)).exit_code == 0
        assert run(running.port, "--key-file", "-", stdin="key-of-the-doctor\n").exit_code == 0
        stranger = run(running.port, "--key-file", "-", stdin="another")
        assert isinstance(stranger.exception, EngineError)
        assert "401" in stranger.exception.message
        assert "another" not in stranger.exception.message
        answer: Answer = running.ask("GET", "/v1/models", Authorization="bearer key-of-the-doctor")
        assert answer.status == 200


@pytest.mark.parametrize("content", ["", "\n", "two\nlines", "schlüssel"])
def test_what_is_no_key_is_a_usage_error(content: str) -> None:
    result = run(1, "--key-file", "-", stdin=content)
    assert result.exit_code == 2
    assert "--key-file" in result.output
