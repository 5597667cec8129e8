"""What an answer that is sent while it is made needs from its connection.

The server puts the connection into the environment (``qwen3_tts.connection``); under another server there is
none, and then nobody is ever gone and nothing is told at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from flask import request


class BrokenOff(Exception):
    """Raised while an answer is being sent, when there will be no more of it.

    The status line is out, so only the connection can tell: it closes without the chunk that ends an answer.
    """


class Connection(Protocol):
    """The client's connection."""

    #: Header lines that follow the last chunk, filled in before it.
    trailers: dict[str, str]

    def watch(self, on_disconnect: Callable[[], None], deadline: float) -> None:
        """Hear of a client that goes away, and give the answer an end in time."""


class _Unknown:
    def __init__(self) -> None:
        self.trailers: dict[str, str] = {}

    def watch(self, on_disconnect: Callable[[], None], deadline: float) -> None:
        pass


def connection() -> Connection:
    """The connection of the request that is being handled."""
    found: Connection | None = request.environ.get("qwen3_tts.connection")
    return found if found is not None else _Unknown()


def client_is_gone() -> Callable[[], bool]:
    """Asks whether the socket of the request that is being handled has closed."""
    gone: Callable[[], bool] = request.environ.get("waitress.client_disconnected", lambda: False)
    return gone


def takes_chunks() -> bool:
    """Whether the client knows answers without a length whose end can be told from a cut: not HTTP/1.0."""
    return bool(request.environ.get("SERVER_PROTOCOL") != "HTTP/1.0")


def takes_trailers() -> bool:
    """Whether the client asked for what is known only at the end (``TE: trailers``)."""
    accepted: Any = request.headers.get("TE", "")
    return "trailers" in {part.partition(";")[0].strip().lower() for part in accepted.split(",")}
