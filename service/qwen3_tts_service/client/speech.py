"""Speech as it is made: as server-sent events, whose end, or what went wrong, is told in the stream itself."""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import BrokeOff, EngineError, TTSError
from . import server as servers
from .server import Server

#: A question about progress must not hold up the sound (seconds).
_PROGRESS_S = 2.0


class Speech:
    """One request's sound, piece by piece. ``facts`` is what the server tells of it, complete at the end."""

    def __init__(self, server: Server, response: http.client.HTTPResponse) -> None:
        self._server = server
        self._response = response
        self._request_id = response.headers.get("X-Request-Id", "")
        self.facts: dict[str, Any] = {}

    def __iter__(self) -> Iterator[bytes]:
        """Bytes of the format. Raises BrokeOff where the answer ends before the speech does."""
        while True:
            event = self._next()
            try:
                if event["type"] == "speech.audio.delta":
                    yield base64.b64decode(event["audio"], validate=True)
                elif event["type"] == "speech.audio.done":
                    self.facts = {name: value for name, value in event.items() if name != "type"}
                    return
                elif event["type"] == "error":
                    raise BrokeOff(f"the speech broke off: {event['error']['message']}")
            except (KeyError, TypeError, binascii.Error) as error:
                raise BrokeOff(
                    f"the speech broke off: an event is no event of this service: {error}"
                ) from error

    def ask_progress(self) -> None:
        """Bring ``facts`` up to date while the speech is made; where nobody tells, they stay as they are."""
        path = f"/v1/audio/speech/{urllib.parse.quote(self._request_id, safe='')}"
        try:
            self.facts = self._server.ask_json("GET", path, timeout_s=_PROGRESS_S)
        except TTSError:
            # The sound itself tells what is wrong with it.
            return

    def _next(self) -> Any:
        try:
            line = self._response.readline()
            # Each event ends with an empty line.
            while line in (b"\n", b"\r\n"):
                line = self._response.readline()
        except TimeoutError as error:
            raise BrokeOff(
                f"the speech broke off: the server sent nothing for {self._server.timeout_s:g} s (--timeout)"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise BrokeOff(f"the speech broke off: {error or type(error).__name__}") from error
        if not line.startswith(b"data: "):
            raise BrokeOff(
                "the speech broke off: the server's journal says why, under the request "
                f"{self._request_id or '(without an id)'}"
            )
        try:
            return json.loads(line.removeprefix(b"data: "))
        except ValueError as error:
            raise BrokeOff("the speech broke off within an event") from error


@contextmanager
def speak(server: Server, body: dict[str, Any]) -> Iterator[Speech]:
    """Ask for speech; ``body`` as of ``POST /v1/audio/speech``. Leaving early stops the server's work.

    Raises Unreachable, and before any sound what the server refuses with.
    """
    content = json.dumps({**body, "stream_format": "sse"}).encode()
    path = "/v1/audio/speech"
    with server.answer("POST", path, content) as response:
        if response.status != 200:
            raise servers.refusal(response, servers.read(response, path))
        if response.headers.get_content_type() != "text/event-stream":
            raise EngineError(
                f"{server.address} sends {response.headers.get_content_type()} in place of events: it is none of "
                "this service's"
            )
        yield Speech(server, response)
