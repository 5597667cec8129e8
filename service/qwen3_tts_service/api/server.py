"""waitress, set up for speech: who listens, how many threads, and how it goes down.

waitress's defaults do not fit: its own queue would hide ours, four threads would leave ``/health`` waiting
behind synthesis, 16 MiB of sound would pile up before a slow reader holds its slot back, connections that say
nothing would keep everybody else out, and its ``run()`` leaves the loop on a signal while answers are still unsent.
So the loop is ours: it keeps turning while a drain finishes what was accepted, and it ends connections that nobody
reads or that only take up room. Its times are those of the monotonic clock.
"""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Flask
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import ErrorTask, WSGITask

from . import edge, error_responses
from .bodies import Parser
from .streams import BrokenOff

logger = logging.getLogger(__name__)

#: Threads beyond those that requests for speech can hold, so that short answers never wait.
_RESERVE_THREADS = 8
#: Connections beyond those whose requests wait or are spoken: with so many the one that has been without a request for
#: the longest is closed, so that there is always room for another.
_IDLE_CONNECTIONS = 448
#: What waitress itself refuses beyond that; never reached, and other descriptors of the process (files, the engine).
_SPARE_CONNECTIONS, _OTHER_DESCRIPTORS = 64, 128
#: How long a connection may be without a request, how long a header may take to arrive, and how long a body may
#: stand still on its way, in seconds.
_IDLE_S, _HEADER_S, _BODY_STANDS_S = 120.0, 10.0, 20.0
#: How long a client's machine may leave what was sent to it without an answer, and how often one that is
#: not sent anything is asked whether it is still there, in seconds.
_UNANSWERED_S, _ASK_AFTER_S = 30, 15
#: Sound that may wait for its reader in the server and in the kernel, in bytes: together about four seconds of PCM.
#: Beyond it the request's thread is held, and with it the request's slot. The kernel doubles what it is told; by itself
#: it would take megabytes.
_UNREAD_BYTES, _UNSENT_BYTES = 64 * 1024, 64 * 1024
_LOOP_S = 0.2
#: How often connections are looked at: there may be hundreds, and many rounds of the loop in a second.
_LOOK_S = 0.1
#: How long an answer that ended by its deadline may take to be told so, in seconds.
_SEND_AFTER_DEADLINE_S = 2.0
#: How long a refused client may take to stop sending, in seconds.
_LINGER_S = 2.0
_NEVER_S = 1 << 40


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
            *([("WWW-Authenticate", "Bearer")] if error.code == 401 else []),
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
        #: Since when no request of it is under way, and since when a part of one has stood still.
        self.idle_since = self._stands_since = self._part_since = time.monotonic()
        self._part: tuple[object, float | None] | None = None
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

    @property
    def is_idle(self) -> bool:
        """Whether no whole request of it is under way and nothing waits to be sent."""
        return not (self.requests or self.total_outbufs_len)

    def look(self, reader_timeout_s: float) -> None:
        """Called often by the loop: ends a connection whose client takes nothing, takes too long, or sends nothing."""
        now = time.monotonic()
        if self.is_idle:
            self._stands_since = now
            self._look_for_a_request(now)
            return
        self.idle_since = self._part_since = now
        self._part = None
        # Time of the newest send; on its own it would be old for an answer that has just begun.
        if not self.total_outbufs_len or self.last_activity != self._last_send:
            self._last_send, self._stands_since = self.last_activity, now
        late = self._deadline is not None and now > self._deadline + _SEND_AFTER_DEADLINE_S
        if late or now - self._stands_since > reader_timeout_s:
            logger.info("a client that does not read its answer is cut off")
            self.handle_close()

    def _look_for_a_request(self, now: float) -> None:
        coming = self.request
        if coming is None:
            part, limit_s = None, _IDLE_S
        elif coming.headers_finished:
            part, limit_s = (coming, self.last_activity), _BODY_STANDS_S
        else:
            # Whatever arrives of a header does not make it newer.
            part, limit_s = (coming, None), _HEADER_S
        if part != self._part:
            self._part, self._part_since = part, now
        if now - self._part_since > limit_s:
            logger.debug("a connection without a whole request is closed")
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


def _allow_descriptors(wanted: int) -> None:
    """Raise the process' limit of open files where it is lower and may be raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def _set_up_connections(listener: socket.socket) -> None:
    """What every connection inherits: little of it waits in the kernel, and it ends when its other side is silent."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNSENT_BYTES)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * _UNANSWERED_S)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _ASK_AFTER_S)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _ASK_AFTER_S)


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
        opens: Callable[[str | None], bool],
        on_round: Callable[[], None] = lambda: None,
    ) -> None:
        """``requests`` for speech may wait or be spoken at a time, each on a thread of its own.

        ``opens`` says whether an Authorization header holds a key, or none is needed. ``on_round`` is called by the
        thread that serves the sockets, several times a second.
        """
        self._on_round = on_round
        self._reader_timeout_s = reader_timeout_s
        self._map: dict[int, Any] = {}
        self._most_connections = requests + _RESERVE_THREADS + _IDLE_CONNECTIONS
        self._next_look = 0.0
        _allow_descriptors(self._most_connections + _SPARE_CONNECTIONS + _OTHER_DESCRIPTORS)
        _set_up_connections(listener)
        self._server = create_server(
            app,
            map=self._map,
            sockets=[listener],
            threads=requests + _RESERVE_THREADS,
            connection_limit=self._most_connections + _SPARE_CONNECTIONS,
            # waitress refuses what has this size, too.
            max_request_body_size=max_body_bytes + 1,
            outbuf_high_watermark=_UNREAD_BYTES,
            asyncore_use_poll=True,
            # Reading on is how it notices that a client has gone.
            channel_request_lookahead=1,
            # It goes by the wall clock; idle connections are ours to end.
            channel_timeout=_NEVER_S,
            ident=None,
            # Whether a request was forwarded decides whether it needs a key: see ``edge.py``.
            clear_untrusted_proxy_headers=False,
            expose_tracebacks=False,
        )
        self._server.channel_class = type(
            "KeyedChannel", (Channel,), {"parser_class": partial(Parser, opens)}
        )
        self._stopped = threading.Event()

    def run(self) -> None:
        """Serve until :meth:`stop`; blocks. What was answered is sent before it returns."""
        while not self._stopped.is_set():
            wasyncore.loop(timeout=_LOOP_S, use_poll=True, map=self._map, count=1)
            self._look()
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

    def _look(self) -> None:
        """End connections that take up room for nothing."""
        channels = self._server.active_channels
        if len(channels) > self._most_connections:
            idle = [channel for channel in channels.values() if channel.is_idle]
            if idle:
                min(idle, key=lambda channel: channel.idle_since).handle_close()
        if (now := time.monotonic()) < self._next_look:
            return
        self._next_look = now + _LOOK_S
        for channel in list(channels.values()):
            channel.look(self._reader_timeout_s)

    def _busy(self) -> bool:
        channels = list(self._server.active_channels.values())
        return any(channel.requests or channel.total_outbufs_len for channel in channels)
