"""Asking wheel sources, against real directories and a real server on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from loose_module import loose_module

sources = loose_module(
    Path(__file__).resolve().parents[3] / "roles/tts_preflight/library/tts_wheel_sources.py"
)


class Index(BaseHTTPRequestHandler):
    """Answers below ``/whl/`` and nowhere else."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/whl/" else 404)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Say nothing in the test's output."""


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_index_that_answers(address: str) -> None:
    assert sources.trouble(f"{address}/whl", 5) == ""


def test_an_index_that_is_not_there(address: str) -> None:
    assert sources.trouble(f"{address}/simple", 5) == "it answers with status 404"


def test_a_port_that_nobody_listens_on() -> None:
    assert "refused" in sources.trouble("http://127.0.0.1:1/whl", 5)


def test_a_wheelhouse_needs_a_wheel(tmp_path: Path) -> None:
    assert sources.trouble(str(tmp_path / "missing"), 5) == "there is no such directory on the host"
    assert sources.trouble(str(tmp_path), 5) == "the directory holds no wheel"
    (tmp_path / "a-1-py3-none-any.whl").touch()
    assert sources.trouble(str(tmp_path), 5) == ""
