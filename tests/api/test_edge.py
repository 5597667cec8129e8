"""Who is let in: keys, the name in Host, and what browsers say about the page behind a request."""

from __future__ import annotations

import hashlib
import http.client
import socket
from collections.abc import Iterator

import openai
import pytest

from qwen3_tts_service.api.auth import KeyRing
from qwen3_tts_service.api.error_responses import without_paths
from qwen3_tts_service.errors import DeviceFault, EngineError
from server_process import Answer
from stand_in_engine import Service, service

KEY = "a-long-random-key-0123456789"
PAGE = "https://app.example"
SPEECH = {"input": "Hello.", "voice": "vivian"}
REBOUND = {"Host": "evil.example:8100", "Origin": "http://evil.example:8100", "Sec-Fetch-Site": "same-origin"}


def ring() -> KeyRing:
    return KeyRing((("laptop", hashlib.sha256(KEY.encode()).digest()),))


@pytest.fixture(scope="module")
def keyless() -> Iterator[Service]:
    with service() as started:
        yield started


@pytest.fixture(scope="module")
def keyed() -> Iterator[Service]:
    with service(ring(), cors_origins=(PAGE,)) as started:
        yield started


def post(server: Service, **headers: str) -> Answer:
    return server.ask("POST", "/v1/audio/speech", SPEECH, **headers)


def raw(server: Service, head: str) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(head.encode())
        return b"".join(iter(lambda: client.recv(65536), b""))


def refused(server: Service, answer: Answer, status: int, code: str) -> None:
    """Told in the usual shape, and nothing was spoken."""
    assert (answer.status, answer.error["code"]) == (status, code)
    assert "access-control-allow-origin" not in answer.headers
    assert server.engine.begun == []


@pytest.fixture(autouse=True)
def _nothing_spoken(request: pytest.FixtureRequest) -> None:
    for name in ("keyless", "keyed"):
        if name in request.fixturenames:
            request.getfixturevalue(name).engine.begun.clear()


# --- Host -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8100",
        "LOCALHOST.",
        "127.0.0.1:8100",
        "[::1]:8100",
        "192.0.2.7",
        "[2001:db8::1]",
    ],
)
def test_a_server_without_keys_answers_to_localhost_and_addresses(keyless: Service, host: str) -> None:
    assert post(keyless, Host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        *(
            "evil.example",
            "evil.example:8100",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "2130706433",
        ),
        *(
            "user@127.0.0.1",
            "127.0.0.1@evil.example",
            "[evil.example]",
            "",
            "127.0.0.1, evil.example",
            "[::1",
        ),
    ],
)
def test_any_other_name_is_misdirected(keyless: Service, host: str) -> None:
    answer = post(keyless, Host=host)
    refused(keyless, answer, 421, "host_not_allowed")
    assert "allowed_hosts" in answer.error["message"]


@pytest.mark.parametrize("path", ["/ready", "/health", "/v1/models", "/metrics", "/nothing"])
def test_a_page_that_rebinds_its_name_reads_nothing(keyless: Service, path: str) -> None:
    assert keyless.ask("GET", path, **REBOUND).status == 421
    refused(keyless, post(keyless, **REBOUND), 421, "host_not_allowed")


def test_http_1_0_has_no_host(keyless: Service) -> None:
    assert raw(keyless, "GET /v1/models HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")


def test_whoever_shows_a_key_may_use_any_name(keyed: Service) -> None:
    assert post(keyed, Host="tts.example", Authorization=f"Bearer {KEY}").status == 200
    assert keyed.ask("GET", "/ready", Host="tts.example").status == 200
    keyed.engine.begun.clear()
    refused(keyed, post(keyed, **REBOUND), 401, "invalid_api_key")


def test_a_list_of_names_is_for_everybody() -> None:
    with service(ring(), allowed_hosts=("tts.example",)) as server:
        for host, status in (("tts.example", 200), ("TTS.example:443", 200), ("other.example", 421)):
            assert post(server, Host=host, Authorization=f"Bearer {KEY}").status == status
            assert server.ask("GET", "/ready", Host=host).status == status


# --- Origin ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Origin": "http://["},
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "audio"},
        {"Sec-Fetch-Site": "same-site"},
        # A form that a page sends by itself.
        {
            "Origin": "null",
            "Sec-Fetch-Site": "cross-site",
            "Sec-Fetch-Mode": "navigate",
            "Sec-Fetch-Dest": "document",
        },
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    ],
    ids=str,
)
def test_a_page_of_elsewhere_cannot_post(keyless: Service, keyed: Service, headers: dict[str, str]) -> None:
    answer = post(keyless, **headers)
    refused(keyless, answer, 403, "origin_not_allowed")
    assert "cors_origins" in answer.error["message"]
    # A key changes nothing: nobody who is no browser sends these.
    refused(keyed, post(keyed, Authorization=f"Bearer {KEY}", **headers), 403, "origin_not_allowed")


def test_a_page_of_elsewhere_cannot_embed_but_a_person_may_follow_its_link(keyless: Service) -> None:
    cross = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert keyless.ask("GET", "/ready", **cross, Sec_Fetch_Dest="iframe").status == 403
    assert keyless.ask("GET", "/ready", **cross, Sec_Fetch_Dest="document").status == 200


def test_its_own_page_may_ask(keyless: Service) -> None:
    own = f"127.0.0.1:{keyless.port}"
    assert post(keyless, Origin=f"http://{own}", Sec_Fetch_Site="same-origin").status == 200
    # Behind a proxy that speaks TLS.
    assert post(keyless, Host="localhost:443", Origin="https://localhost").status == 200
    assert post(keyless, Origin=f"http://{own}", Sec_Fetch_Site="cross-site").status == 403


def test_clients_that_are_no_browsers_are_not_asked(keyless: Service) -> None:
    """As the openai package and curl send them."""
    with openai.OpenAI(
        api_key="none", base_url=f"http://localhost:{keyless.port}/v1", max_retries=0
    ) as client:
        assert client.audio.speech.create(model="tts-1", voice="alloy", input="Hello.").content
    assert post(keyless, User_Agent="curl/8.5.0", Accept="*/*").status == 200


# --- CORS -----------------------------------------------------------------------------------------------------


def preflight(server: Service, origin: str, headers: str = "authorization,content-type") -> Answer:
    return server.ask(
        "OPTIONS",
        "/v1/audio/speech",
        Origin=origin,
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers=headers,
        Sec_Fetch_Site="cross-site",
        Sec_Fetch_Mode="cors",
    )


def test_without_a_setting_no_page_is_let_in(keyless: Service) -> None:
    refused(keyless, preflight(keyless, PAGE), 403, "origin_not_allowed")
    assert not [name for name in post(keyless).headers if name.startswith("access-control") or name == "vary"]


def test_a_page_that_is_let_in_reads_the_answer(keyed: Service) -> None:
    asked = preflight(keyed, PAGE)
    assert (asked.status, asked.content) == (204, b"")
    assert asked.headers["access-control-allow-origin"] == PAGE
    assert asked.headers["access-control-allow-headers"] == "authorization,content-type"
    assert "POST" in asked.headers["access-control-allow-methods"].split(", ")
    assert int(asked.headers["access-control-max-age"]) > 0
    assert {"Origin", "Access-Control-Request-Headers"} <= set(asked.headers["vary"].split(", "))
    answer = post(keyed, Origin=PAGE, Sec_Fetch_Site="cross-site", Authorization=f"Bearer {KEY}")
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-expose-headers"] == "*"
    # The page must be able to read why it was refused.
    stranger = post(keyed, Origin=PAGE, Sec_Fetch_Site="cross-site")
    assert (stranger.status, stranger.headers["access-control-allow-origin"]) == (401, PAGE)
    assert "access-control-allow-credentials" not in answer.headers


def test_other_pages_stay_out(keyed: Service) -> None:
    for origin in (
        "https://app.example.evil.example",
        "http://app.example",
        "https://app.example:8443",
        "null",
    ):
        refused(keyed, preflight(keyed, origin), 403, "origin_not_allowed")
    assert post(keyed, Authorization=f"Bearer {KEY}").headers["vary"] == "Origin"
    odd = preflight(keyed, PAGE, "x-one, (bad)")
    assert "access-control-allow-headers" not in odd.headers


# --- Loopback -------------------------------------------------------------------------------------------------


def test_this_machine_needs_a_key_like_everybody(keyed: Service) -> None:
    refused(keyed, post(keyed), 401, "invalid_api_key")


@pytest.fixture(scope="module")
def trusting() -> Iterator[Service]:
    with service(ring(), loopback_without_key=True) as started:
        yield started


@pytest.mark.parametrize(
    "name",
    [
        *("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port"),
        *("X-Real-IP", "X-Client-IP", "True-Client-IP", "CF-Connecting-IP", "x-forwarded-for"),
    ],
)
def test_what_was_forwarded_is_not_from_this_machine(trusting: Service, name: str) -> None:
    assert post(trusting).status == 200
    assert post(trusting, Authorization="Bearer none").status == 200
    trusting.engine.begun.clear()
    for value in ("127.0.0.1", "203.0.113.9", ""):
        refused(
            trusting,
            trusting.ask("POST", "/v1/audio/speech", SPEECH, **{name: value}),
            401,
            "invalid_api_key",
        )
    assert post(trusting, **{name: "203.0.113.9"}, Authorization=f"Bearer {KEY}").status == 200


def test_who_needs_no_key_is_still_no_page(trusting: Service) -> None:
    trusting.engine.begun.clear()
    refused(trusting, post(trusting, **REBOUND), 421, "host_not_allowed")
    refused(trusting, post(trusting, Origin="https://evil.example"), 403, "origin_not_allowed")


# --- What answers say -----------------------------------------------------------------------------------------


def test_every_answer_tells_browsers_to_do_nothing_with_it(keyless: Service) -> None:
    for answer in (
        post(keyless),
        keyless.ask("GET", "/ready"),
        keyless.ask("GET", "/nothing"),
        keyless.ask("POST", "/v1/audio/speech", b"{"),
        post(keyless, Host="evil.example"),
    ):
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in answer.headers


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (RuntimeError("/opt/qwen3-tts/releases/1/venv/lib/torch.py:12 torch 2.13.0"), 500),
        (EngineError("/var/cache/qwen3-tts/huggingface/model.safetensors cannot be read"), 500),
    ],
)
def test_a_failure_tells_no_path_and_no_version(
    keyless: Service, caplog: pytest.LogCaptureFixture, fault: Exception, status: int
) -> None:
    keyless.engine.fault = fault
    try:
        answer = post(keyless)
    finally:
        keyless.engine.fault = None
    assert answer.status == status
    assert answer.error["message"]
    for secret in ("/opt", "/var", "qwen3-tts/", "torch", "Traceback", ".py"):
        assert secret not in answer.content.decode()
    # The operator reads all of it.
    assert str(fault) in caplog.text


def test_neither_does_one_in_mid_stream(keyless: Service) -> None:
    engine = keyless.engine
    engine.fault, engine.fault_at, engine.repeat = EngineError("/opt/qwen3-tts/x.py:12 broke"), 1, 2
    try:
        with pytest.raises(http.client.IncompleteRead) as cut:
            keyless.ask("POST", "/v1/audio/speech", SPEECH | {"stream_format": "sse"})
    finally:
        engine.fault, engine.fault_at, engine.repeat = None, 0, 1
    assert b"engine_error" in cut.value.partial
    assert b"(path) broke" in cut.value.partial
    assert b"/opt" not in cut.value.partial


def test_what_is_broken_says_so_without_paths() -> None:
    with service() as server:
        server.lifecycle.device_lost(
            DeviceFault("HIP error: /dev/dri/renderD128 is gone, see /var/log/kern.log")
        )
        told = server.ask("GET", "/ready")
        assert (told.status, told.json["reason"]) == (503, "HIP error: (path) is gone, see (path)")
        assert "/var" not in post(server).error["message"]


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("cannot read /models/a/config.json: gone", "cannot read (path): gone"),
        ("File '/opt/x/lib/python3.11/a.py', line 3", "File '(path)', line 3"),
        ("stop and/or length, 1/2 s, /ready", "stop and/or length, 1/2 s, /ready"),
    ],
)
def test_paths_are_found_and_other_strokes_left(message: str, told: str) -> None:
    assert without_paths(message) == told
