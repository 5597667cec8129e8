"""The key file: several named keys, read again without a restart."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import socket
from functools import partial
from pathlib import Path

import pytest

from qwen3_tts_service.api import auth
from qwen3_tts_service.api.auth import KeyRing
from qwen3_tts_service.commands import serve
from qwen3_tts_service.config import Settings
from qwen3_tts_service.errors import ConfigurationError, Unauthorized
from stand_in_engine import service


def line(name: str, key: str) -> str:
    return f"{name} sha256:{hashlib.sha256(key.encode()).hexdigest()}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("# ours\n\n" + line("kitchen", "one") + line("hall", "two"))
    return path


def names(keys: KeyRing, *shown: str) -> list[str | None]:
    found: list[str | None] = []
    for key in shown:
        try:
            found.append(keys.authenticate(f"Bearer {key}"))
        except Unauthorized:
            found.append(None)
    return found


def test_each_key_has_a_name(file: Path) -> None:
    assert names(KeyRing.read(lambda: file), "one", "two", "three") == ["kitchen", "hall", None]


def test_every_key_is_compared_whichever_matches(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time must not tell which key, or how much of one, was right."""
    keys = KeyRing.read(lambda: file)
    compared: list[bytes] = []

    def compare(known: bytes, given: bytes) -> bool:
        compared.append(known)
        return known == given

    monkeypatch.setattr(auth.hmac, "compare_digest", compare)
    for key in ("one", "two", "three"):
        compared.clear()
        names(keys, key)
        assert len(compared) == 2


def test_a_reload_brings_new_keys_and_ends_old_ones(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = KeyRing.read(lambda: file)
    file.write_text(line("kitchen", "new") + line("garden", "three"))
    with caplog.at_level(logging.INFO):
        keys.reload()
    assert names(keys, "one", "two", "new", "three") == [None, None, "kitchen", "garden"]
    assert "2 API keys; new: garden; gone: hall; changed: kitchen" in caplog.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("kitchen one\n", "line 1: expected"),
        (line("kitchen", "new") + "hall sha256:12\n", "line 2: expected"),
        (line("kitchen", "new") + line("kitchen", "newer"), "line 2: there is a key of that name"),
        ("# none\n", "holds no key"),
        (None, "cannot be read"),
    ],
)
def test_a_broken_file_keeps_the_old_keys_and_says_so(
    file: Path, caplog: pytest.LogCaptureFixture, content: str | None, said: str
) -> None:
    keys = KeyRing.read(lambda: file)
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    keys.reload()
    assert names(keys, "one", "two", "new") == ["kitchen", "hall", None]
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "the 2 API keys stay as they were" in record.message
    assert said in record.message
    assert "sha256:1" not in record.message
    with pytest.raises(ConfigurationError):
        KeyRing.read(lambda: file)


def test_a_server_without_a_file_gets_none_by_a_reload(caplog: pytest.LogCaptureFixture) -> None:
    keys = KeyRing.read(lambda: None)
    keys.reload()
    assert keys.authenticate(None) == "-"
    assert "QWEN3_TTS_API_KEYS_FILE" in caplog.text


def test_what_a_reload_brought_goes_before_the_credential(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd keeps a credential as it was when the unit started."""
    settings = Settings(model=tmp_path)
    for name in ("RUNTIME_DIRECTORY", "CREDENTIALS_DIRECTORY"):
        monkeypatch.setenv(name, str(tmp_path / name))
        (tmp_path / name).mkdir()
    find = partial(serve.key_file, settings)
    assert find() is None
    (tmp_path / "CREDENTIALS_DIRECTORY" / "api_keys").write_text(line("kitchen", "old"))
    keys = KeyRing.read(find)
    (tmp_path / "RUNTIME_DIRECTORY" / "api_keys").write_text(line("kitchen", "new"))
    keys.reload()
    assert names(keys, "old", "new") == [None, "kitchen"]
    own = tmp_path / "own"
    assert serve.key_file(Settings(model=tmp_path, api_keys_file=own)) == own


def head(*lines: str) -> bytes:
    return "\r\n".join(
        [
            "POST /v1/audio/voices HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/json",
            *lines,
            "",
            "",
        ]
    ).encode()


@pytest.mark.parametrize("length", ["Content-Length: 10000000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("shown", [[], ["Authorization: Bearer three"], ["Expect: 100-continue"]])
def test_a_strangers_large_body_is_not_waited_for(file: Path, length: str, shown: list[str]) -> None:
    """Refused by its header: nothing of it is kept."""
    with (
        service(KeyRing.read(lambda: file)) as running,
        socket.create_connection(("127.0.0.1", running.port), 10) as client,
    ):
        client.sendall(head(length, *shown))
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        error = json.loads(answer.read())["error"]
        assert "65536 bytes" in error["message"]
        assert client.recv(1) == b"", "the connection is closed"


@pytest.mark.parametrize("keyed", [True, False])
def test_who_has_a_key_or_needs_none_may_send_much(file: Path, keyed: bool) -> None:
    with service(KeyRing.read(lambda: file) if keyed else KeyRing()) as running:
        headers = {"Authorization": "Bearer one"} if keyed else {}
        body = {"input": "a", "voice": "vivian", "user": "x" * 100_000}
        assert running.ask("POST", "/v1/audio/speech", body, **headers).status == 200
