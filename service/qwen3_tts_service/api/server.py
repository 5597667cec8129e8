"""waitress, set up for speech: who listens, how many threads, and how it goes down.

waitress's defaults do not fit: its own queue would hide ours, four threads would leave ``/health`` waiting
behind synthesis, and its ``run()`` leaves the loop on a signal while answers are still unsent. So the loop is
ours: it keeps turning while a drain finishes what was accepted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
from types import FrameType
from typing import Any

from flask import Flask
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import ErrorTask

from ..errors import ConfigurationError
from . import error_responses

logger = logging.getLogger(__name__)

#: Threads beyond the queue and the running request, so that short answers never wait.
_RESERVE_THREADS = 8
_CONNECTION_LIMIT = 512
#: Bodies above our limit are read up to this many times the limit and answered by the application; beyond
#: that waitress refuses at the header.
_BODY_SLACK = 16
_LOOP_S = 0.2
#: How long a refused client may take to stop sending, in seconds.
_LINGER_S = 2.0


class JSONErrorTask(ErrorTask):  # type: ignore[misc]
    """waitress's own refusals (broken request line, huge header or body) in our error shape."""

    def execute(self) -> None:
        error = self.request.error
        message = f"{error.reason}: {error.body}".strip()
        if error.code == 413:
            limit = self.channel.adj.max_request_body_size // _BODY_SLACK
            message = f"the body is too large: at most {limit} bytes are allowed"
        content = json.dumps(
            error_responses.body(
                message,
                kind="invalid_request_error" if error.code < 500 else "server_error",
                code=error.reason.lower().replace(" ", "_"),
            )
        ).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(content))),
            ("Connection", "close"),
        ]
        self.close_on_finish = True
        self.channel.refused = True
        self.content_length = len(content)
        self.write(content)


class Channel(HTTPChannel):  # type: ignore[misc]
    """A connection with our error answers."""

    error_task_class = JSONErrorTask
    #: Whether it ends with one, so that its client may still be sending.
    refused = False

    def handle_close(self) -> None:
        if self.refused and self.connected:
            # A socket that is closed with unread input resets the connection, and the client loses the answer.
            with contextlib.suppress(OSError):
                _LastWords(self.socket.dup(), self._map)
        super().handle_close()


class _LastWords(wasyncore.dispatcher):  # type: ignore[misc]
    """Reads and drops what a refused client still sends, until it hangs up or the time is over."""

    def __init__(self, connection: socket.socket, channels: dict[int, Any]) -> None:
        super().__init__(connection, map=channels)
        self._deadline = time.monotonic() + _LINGER_S
        connection.shutdown(socket.SHUT_WR)

    def readable(self) -> bool:
        if time.monotonic() < self._deadline:
            return True
        self.close()
        return False

    def writable(self) -> bool:
        return False

    def handle_read(self) -> None:
        if not self.recv(1 << 16):
            self.close()


def listen(host: str, port: int) -> socket.socket:
    """Bind and listen. Raises ConfigurationError when the address is not ours or the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {host} port {port}: {error}; choose another QWEN3_TTS_HOST or QWEN3_TTS_PORT",
            param="port",
        ) from error
    return listener


class Server:
    """One listening server around the application."""

    def __init__(self, app: Flask, listener: socket.socket, *, queue_size: int, max_body_bytes: int) -> None:
        self._map: dict[int, Any] = {}
        self._server = create_server(
            app,
            map=self._map,
            sockets=[listener],
            threads=queue_size + 1 + _RESERVE_THREADS,
            connection_limit=_CONNECTION_LIMIT,
            max_request_body_size=max_body_bytes * _BODY_SLACK,
            asyncore_use_poll=True,
            channel_request_lookahead=1,
            channel_timeout=120,
            ident=None,
            expose_tracebacks=False,
        )
        self._server.channel_class = Channel
        self._stopped = threading.Event()

    def run(self) -> None:
        """Serve until :meth:`stop`; blocks. What was answered is sent before it returns."""
        while not self._stopped.is_set():
            wasyncore.loop(timeout=_LOOP_S, use_poll=True, map=self._map, count=1)
        self._server.task_dispatcher.shutdown(timeout=1)
        self._server.close()

    def stop(self, timeout_s: float) -> None:
        """Wait up to ``timeout_s`` seconds until all answers are sent, then end :meth:`run`."""
        deadline = time.monotonic() + timeout_s
        while self._busy() and time.monotonic() < deadline:
            time.sleep(_LOOP_S / 4)
        self._stopped.set()

    def _busy(self) -> bool:
        channels = list(self._server.active_channels.values())
        return any(channel.requests or channel.total_outbufs_len for channel in channels)


def on_termination(drain: threading.Event) -> None:
    """SIGTERM and SIGINT set ``drain``; the second one ends the process at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if drain.is_set():
            try:
                logger.warning("second signal: leaving at once, running requests are lost")
            finally:
                os._exit(128 + number)
        drain.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
