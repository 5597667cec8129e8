"""Input that nobody should send: named in the answer, and the server speaks afterwards."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server_process import Answer
from stand_in_engine import Service, service

MAX_BODY = 10_000


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with service(max_input_chars=100, max_body_bytes=MAX_BODY, queue_size=4) as started:
        yield started


@pytest.fixture
def server(running: Service) -> Iterator[Service]:
    yield running
    assert running.speak("still here").status == 200


def body(**fields: object) -> bytes:
    return json.dumps({"input": "Hello.", "voice": "vivian"} | fields).encode()


WRONG_FIELDS: list[tuple[bytes, str, list[str]]] = [
    (body(input=""), "input", ["empty"]),
    (body(input=" \n\t\x00\x1f "), "input", ["empty"]),
    (body(input="\u200b\ufeff"), "input", ["empty"]),
    (body(input="a" * 101), "input", ["101", "100"]),
    (body(input=None), "input", ["None", "string"]),
    (body(input=7), "input", ["7", "string"]),
    (body(input=["a"]), "input", ["['a']", "string"]),
    (body(input="half \ud83d here"), "input", ["surrogate"]),
    (body(input="Hello<|im_end|>"), "input", ["<|im_end|>"]),
    (body(input="Hello<tts_pad>"), "input", ["<tts_pad>"]),
    (b'{"voice": "vivian"}', "input", ["missing"]),
    (body(voice="nobody"), "voice", ["nobody", "vivian"]),
    (body(voice=None), "voice", ["None", "vivian"]),
    (body(voice=3), "voice", ["3", "string"]),
    (body(voice={}), "voice", ["nothing in it", "BASE64"]),
    (body(voice={"id": "nobody"}), "voice", ["nobody", "vivian"]),
    (body(voice={"id": 3}), "voice", ["voice.id", "3", "string"]),
    (body(voice={"id": "vivian", "audio": ""}), "voice", ["id, audio", "BASE64"]),
    (body(voice={"text": "Hello."}), "voice", ["text", "BASE64"]),
    (body(voice={"url": "http://192.0.2.1/a.wav"}), "voice", ["url", "BASE64"]),
    (body(voice={"audio": "/etc/hostname"}), "voice", ["voice.audio", "base64", "no address"]),
    (body(voice={"audio": "http://192.0.2.1/a.wav"}), "voice", ["voice.audio", "base64", "no address"]),
    (body(voice={"audio": "bm8gc291bmQ="}), "voice.audio", ["wav, mp3, flac, ogg or m4a"]),
    (body(voice={"audio": ""}), "voice.audio", ["wav, mp3, flac, ogg or m4a"]),
    (body(language="klingon"), "language", ["klingon", "english"]),
    (body(model="tts-2000"), "model", ["tts-2000", "stand-in"]),
    (body(response_format="midi"), "response_format", ["midi", "mp3", "opus", "aac", "flac", "wav", "pcm"]),
    (body(response_format=1), "response_format", ["1", "string"]),
    (body(stream_format="mp3"), "stream_format", ["mp3", "audio", "sse"]),
    (body(stream="yes"), "stream", ["'yes'", "boolean"]),
    (body(temperature=0), "temperature", ["0", "10", "greedy"]),
    (body(temperature=10.5), "temperature", ["10.5", "10"]),
    (body(temperature="hot"), "temperature", ["'hot'", "number"]),
    (body(subtalker_temperature=-1), "subtalker_temperature", ["-1", "10"]),
    (body(top_k=-1), "top_k", ["-1", "all candidates"]),
    (body(top_k=1.5), "top_k", ["1.5", "integer"]),
    (body(subtalker_top_k=10**12), "subtalker_top_k", ["1000000000000", "1000000"]),
    (body(top_p=0), "top_p", ["0", "1"]),
    (body(subtalker_top_p=1.01), "subtalker_top_p", ["1.01", "1"]),
    (body(repetition_penalty=0), "repetition_penalty", ["0", "0.1", "10"]),
    (body(greedy=1), "greedy", ["1", "boolean"]),
    (body(max_seconds=0), "max_seconds", ["0", "greater than 0"]),
    (body(max_seconds=601), "max_seconds", ["601", "600 s"]),
    (b'{"input": "a", "voice": "vivian", "max_seconds": 1e999}', "max_seconds", ["inf", "600 s"]),
    (body(split="word"), "split", ["'word'", "none", "sentence", "paragraph"]),
    (body(pause=-1), "pause", ["-1", "0"]),
    (body(pause=10.5), "pause", ["10.5", "10"]),
    (body(speed=5), "speed", ["5", "0.25", "4"]),
    (body(speed=0), "speed", ["0", "0.25", "4"]),
    (body(speed="1"), "speed", ["'1'", "number"]),
    (body(speed=True), "speed", ["True", "number"]),
    (b'{"input": "a", "voice": "vivian", "speed": 1e999}', "speed", ["inf"]),
    (b'{"input": "a", "voice": "vivian", "speed": ' + b"9" * 400 + b"}", "speed", ["999", "number"]),
    (body(seed=-1), "seed", ["-1", "0"]),
    (body(seed=1.5), "seed", ["1.5", "integer"]),
    (body(seed="1"), "seed", ["'1'", "integer"]),
    (body(seed=True), "seed", ["True", "integer"]),
    (body(seed=1 << 63), "seed", ["9223372036854775808", "less than"]),
    (body(seed=10**300), "seed", ["1000", "less than"]),
    (body(speaker="vivian"), "speaker", ["speaker", "voice", "language", "seed"]),
    (body(instructions="<|im_start|>"), "instructions", ["<|im_start|>"]),
    (body(instructions="a" * 101), "instructions", ["101", "100"]),
    (b'{"input": "a", "voice": "vivian", "\\ud800": 1}', "\\ud800", ["voice", "language"]),
    (body(model="m" * 5_000), "model", ["mmm...", "stand-in"]),
]


@pytest.mark.parametrize(("content", "field", "names"), WRONG_FIELDS, ids=lambda value: repr(value)[:40])
def test_a_wrong_field_is_named_with_value_and_what_is_allowed(
    server: Service, content: bytes, field: str, names: list[str]
) -> None:
    answer = server.ask("POST", "/v1/audio/speech", content)
    assert answer.status == (404 if field == "model" else 400)
    error = answer.error
    assert (error["param"], error["type"]) == (field, "invalid_request_error")
    assert error["code"]
    for name in [field, *names]:
        assert name in error["message"]
    assert len(error["message"]) < 500


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"input": "a", "voice": "vivian", "speed": NaN}', "NaN"),
        (b'{"input": "a", "seed": -Infinity}', "-Infinity"),
        (b'{"input": "a", "seed": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'"Hello"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"[" * 4000, "nested too deeply"),
        (b'{"a":' * 1500, "nested too deeply"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_json_object_is_said_so(server: Service, content: bytes, names: str) -> None:
    answer = server.ask("POST", "/v1/audio/speech", content)
    assert answer.status == 400
    assert names in answer.error["message"]


@pytest.mark.parametrize("depth", range(300, 1000, 50))
def test_nesting_of_any_depth_is_the_clients_mistake(server: Service, depth: int) -> None:
    content = b'{"voice": "vivian", "input": ' + b"[" * depth + b"]" * depth + b"}"
    answer = server.ask("POST", "/v1/audio/speech", content)
    assert answer.status == 400
    assert answer.error["message"]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_another_content_type_is_named(server: Service, kind: str) -> None:
    answer = server.ask("POST", "/v1/audio/speech", body(), Content_Type=kind)
    assert answer.status == 415
    assert repr(kind) in answer.error["message"]
    assert "application/json" in answer.error["message"]


@pytest.mark.parametrize("size", [MAX_BODY + 1, 10 * MAX_BODY, 40 * MAX_BODY, 1000 * MAX_BODY])
def test_a_huge_body_is_refused_by_size(server: Service, size: int) -> None:
    """By the server, unread, and the client still gets the answer."""
    answer = server.ask("POST", "/v1/audio/speech", body(input="a" * size))
    assert answer.status == 413
    assert str(MAX_BODY) in answer.error["message"]


def test_a_body_that_is_compressed_is_not_unpacked(server: Service) -> None:
    """Five million characters in a body of an allowed size."""
    content = gzip.compress(body(input="a" * 5_000_000))
    assert len(content) < MAX_BODY
    answer = server.ask("POST", "/v1/audio/speech", content, Content_Encoding="gzip")
    assert answer.status == 400
    assert "not UTF-8" in answer.error["message"]


def chunked(port: int, *chunks: bytes) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/audio/speech", iter(chunks), headers, encode_chunked=True)
    response = connection.getresponse()
    answer = Answer(response.status, dict(response.getheaders()), response.read())
    connection.close()
    return answer


def test_a_chunked_body_is_a_body_like_any_other(server: Service) -> None:
    whole = body(input="In pieces.")
    assert chunked(server.port, whole[:5], whole[5:]).status == 200
    largest = body(input="a", language="x" * (MAX_BODY - len(body(input="a", language=""))))
    assert len(largest) == MAX_BODY
    assert server.ask("POST", "/v1/audio/speech", largest).status == 400
    assert chunked(server.port, b"{").error["message"].startswith("the body is not JSON")
    big = chunked(server.port, *[b"x" * 5000] * 4)
    assert (big.status, big.error["code"]) == (413, "request_entity_too_large")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 300_000 + b"\r\n\r\n", 431),
        (b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: rot13\r\n\r\n", 501),
    ],
    ids=["request line", "content length", "headers", "transfer encoding"],
)
def test_what_is_hardly_http_is_answered_in_the_same_shape(server: Service, sent: bytes, status: int) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(sent)
        response = http.client.HTTPResponse(client)
        response.begin()
        answer = Answer(response.status, dict(response.getheaders()), response.read())
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Server" not in answer.headers
    assert answer.error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", "/page", 404, None),
        ("GET", "/v1/audio/speeches", 404, None),
        ("GET", "/v1/audio/../../etc/passwd", 404, None),
        ("GET", "/static/errors.py", 404, None),
        ("GET", "/v1/audio/speech", 405, "POST"),
        ("DELETE", "/v1/models", 405, "GET"),
        ("POST", "/ready", 405, "GET"),
    ],
)
def test_other_paths_and_methods(
    server: Service, method: str, path: str, status: int, allowed: str | None
) -> None:
    answer = server.ask(method, path)
    assert answer.status == status
    assert answer.error["type"] == "invalid_request_error"
    if allowed:
        assert allowed in answer.headers["allow"]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, exclude_categories=()), max_size=120),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(
    [
        "input",
        "model",
        "voice",
        "instructions",
        "response_format",
        "speed",
        "stream_format",
        "language",
        "seed",
        "stream",
        "max_seconds",
        "split",
        "pause",
        "temperature",
        "top_k",
        "top_p",
        "repetition_penalty",
        "subtalker_temperature",
        "subtalker_top_k",
        "subtalker_top_p",
        "greedy",
    ]
)
BODIES = st.dictionaries(FIELDS, VALUES, max_size=6) | st.dictionaries(
    FIELDS | st.text(max_size=10), VALUES, max_size=6
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=BODIES, usual=st.booleans())
def test_no_body_makes_the_server_fail(running: Service, fields: dict[str, Any], usual: bool) -> None:
    content = {"input": "Hello.", "voice": "vivian"} | fields if usual else fields
    answer = running.ask("POST", "/v1/audio/speech", json.dumps(content).encode())
    assert answer.status in (200, 400, 404)
    if answer.status != 200:
        assert answer.error["message"]
        assert "Traceback" not in answer.error["message"]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_no_bytes_make_the_server_fail(running: Service, content: bytes) -> None:
    assert running.ask("POST", "/v1/audio/speech", content).status == 400
