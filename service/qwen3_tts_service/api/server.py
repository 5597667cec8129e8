"""waitress, set up for speech: who listens, how many threads, and how it goes down.

waitress's defaults do not fit: its own queue would hide ours, four threads would leave ``/health`` waiting
behind synthesis, 16 MiB of sound would pile up before a slow reader holds its slot back, and its ``run()``
leaves the loop on a signal while answers are still unsent. So the loop is ours: it keeps turning while a drain
finishes what was accepted, and it ends connections that nobody reads.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from flask import Flask
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import ErrorTask, WSGITask

from . import edge, error_responses
from .streams import BrokenOff

logger = logging.getLogger(__name__)

#: Threads beyond those that requests for speech can hold, so that short answers never wait.
_RESERVE_THREADS = 8
_CONNECTION_LIMIT = 512
#: Sound that may wait in the server for its reader, in bytes: about five seconds. Beyond it the request's
#: thread is held, and with it the request's slot.
_UNREAD_BYTES = 256 * 1024
_LOOP_S = 0.2
#: How long an answer that ended by its deadline may take to be told so, in seconds.
_SEND_AFTER_DEADLINE_S = 2.0
#: How long a refused client may take to stop sending, in seconds.
_LINGER_S = 2.0


class JSONErrorTask(ErrorTask):  # type: ignore[misc]
    """waitress's own refusals (broken request line, huge header or body) in our error shape."""

    def execute(self) -> None:
        error = self.request.error
        message = f"{error.reason}: {error.body}".strip()
        if error.code == 413:
            limit = self.channel.adj.max_request_body_size - 1
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
            *edge.HEADERS.items(),
        ]
        self.close_on_finish = True
        self.channel.refused = True
        self.content_length = len(content)
        self.write(content)


class Task(WSGITask):  # type: ignore[misc]
    """A request to the application, which finds its connection in the environment: see ``streams.py``."""

    def get_environment(self) -> dict[str, Any]:
        environment: dict[str, Any] = super().get_environment()
        environment["qwen3_tts.connection"] = self.channel
        return environment

    def service(self) -> None:
        try:
            super().service()
        except BrokenOff:
            # Closed without the last chunk: the client sees that this is not all.
            self.close_on_finish = True
        finally:
            self.channel.answered()

    def finish(self) -> None:
        if not (self.chunked_response and self.channel.trailers):
            super().finish()
            return
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.channel.trailers.items())
        self.channel.write_soon(f"0\r\n{lines}\r\n".encode("latin-1"))


class Channel(HTTPChannel):  # type: ignore[misc]
    """A connection with our error answers, and what an answer that takes long wants to know of it."""

    task_class = Task
    error_task_class = JSONErrorTask
    #: Whether it ends with one, so that its client may still be sending.
    refused = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.trailers: dict[str, str] = {}
        self._on_disconnect: Callable[[], None] | None = None
        self._deadline: float | None = None
        self._disconnecting = threading.Lock()
        self._last_send = 0.0
        self._stands_since = time.monotonic()
        super().__init__(*arguments, **options)

    def watch(self, on_disconnect: Callable[[], None], deadline: float) -> None:
        """Call ``on_disconnect`` when the client goes away, at once if it is gone.

        ``deadline``, a time of :func:`time.monotonic`, is the end of the answer whoever still reads.
        """
        self._deadline = deadline
        with self._disconnecting:
            self._on_disconnect = on_disconnect
            gone = not self.connected
        if gone:
            self._tell_disconnect()

    def answered(self) -> None:
        """The answer is written: nobody needs to hear of this client any more."""
        with self._disconnecting:
            self._on_disconnect = None
        self._deadline = None
        self.trailers = {}

    def look(self, reader_timeout_s: float) -> None:
        """Called often by the loop: ends a connection whose client takes nothing, or too long."""
        now = time.monotonic()
        # Time of the newest send; on its own it would be old for an answer that has just begun.
        if not self.total_outbufs_len or self.last_activity != self._last_send:
            self._last_send, self._stands_since = self.last_activity, now
        late = self._deadline is not None and now > self._deadline + _SEND_AFTER_DEADLINE_S
        if late or now - self._stands_since > reader_timeout_s:
            logger.info("a client that does not read its answer is cut off")
            self.handle_close()

    def handle_close(self) -> None:
        if self.refused and self.connected:
            # A socket that is closed with unread input resets the connection, and the client loses the answer.
            with contextlib.suppress(OSError):
                _LastWords(self.socket.dup(), self._map)
        super().handle_close()
        self._tell_disconnect()

    def _tell_disconnect(self) -> None:
        with self._disconnecting:
            tell, self._on_disconnect = self._on_disconnect, None
        if tell is not None:
            tell()


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


class Server:
    """One listening server around the application."""

    def __init__(
        self,
        app: Flask,
        listener: socket.socket,
        *,
        requests: int,
        max_body_bytes: int,
        reader_timeout_s: float,
        on_round: Callable[[], None] = lambda: None,
    ) -> None:
        """``requests`` for speech may wait or be spoken at a time, each on a thread of its own.

        ``on_round`` is called by the thread that serves the sockets, several times a second.
        """
        self._on_round = on_round
        self._reader_timeout_s = reader_timeout_s
        self._map: dict[int, Any] = {}
        self._server = create_server(
            app,
            map=self._map,
            sockets=[listener],
            threads=requests + _RESERVE_THREADS,
            connection_limit=_CONNECTION_LIMIT,
            # waitress refuses what has this size, too.
            max_request_body_size=max_body_bytes + 1,
            outbuf_high_watermark=_UNREAD_BYTES,
            asyncore_use_poll=True,
            # Reading on is how it notices that a client has gone.
            channel_request_lookahead=1,
            channel_timeout=120,
            ident=None,
            # Whether a request was forwarded decides whether it needs a key: see ``edge.py``.
            clear_untrusted_proxy_headers=False,
            expose_tracebacks=False,
        )
        self._server.channel_class = Channel
        self._stopped = threading.Event()

    def run(self) -> None:
        """Serve until :meth:`stop`; blocks. What was answered is sent before it returns."""
        while not self._stopped.is_set():
            wasyncore.loop(timeout=_LOOP_S, use_poll=True, map=self._map, count=1)
            for channel in list(self._server.active_channels.values()):
                channel.look(self._reader_timeout_s)
            self._on_round()
        self._server.task_dispatcher.shutdown(timeout=1)
        self._server.close()

    def accept(self, whether: bool) -> None:
        """Take new connections, as at the start, or leave them to wait in the listening socket."""
        self._server.accepting = whether

    def stop(self, timeout_s: float) -> None:
        """Wait up to ``timeout_s`` seconds until all answers are sent, then end :meth:`run`."""
        deadline = time.monotonic() + timeout_s
        while self._busy() and time.monotonic() < deadline:
            time.sleep(_LOOP_S / 4)
        self._stopped.set()

    def _busy(self) -> bool:
        channels = list(self._server.active_channels.values())
        return any(channel.requests or channel.total_outbufs_len for channel in channels)
