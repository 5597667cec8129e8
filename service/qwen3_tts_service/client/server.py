"""One server: connections to it, and what its refusals mean."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import (
    EngineError,
    InvalidRequest,
    InvalidValue,
    TTSError,
    Unauthorized,
    Unavailable,
    Unreachable,
)

DEFAULT_ADDRESS = "http://127.0.0.1:8100"
#: As much of an answer that is none of this service's is quoted.
_QUOTED = 300
#: What to wait (seconds) where a server that cannot serve now does not say it.
_RETRY_AFTER_S = 5.0
#: How each of these is told; other 4xx are InvalidRequest, other 5xx EngineError.
_NOT_LET_IN = (401, 403, 421)
_NOT_NOW = (429, 503, 504)


class Server:
    """A server by its address, ``http://HOST:PORT`` or ``https://HOST``. No proxy is asked.

    ``timeout_s`` is the longest wait for its next bytes. Raises InvalidValue for what is no address.
    """

    def __init__(self, address: str, key: str | None = None, timeout_s: float = 300.0) -> None:
        try:
            parts = urllib.parse.urlsplit(address)
            self._port = parts.port
        except ValueError as error:
            raise InvalidValue(f"{address!r}: {error}", param="server") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidValue(f"{address!r} is no http://HOST:PORT", param="server")
        self._host, self._secure = parts.hostname, parts.scheme == "https"
        self._path = parts.path.rstrip("/")
        self.address = address
        self.timeout_s = timeout_s
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    @contextmanager
    def answer(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        content_type: str = "application/json",
        *,
        timeout_s: float | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer to one request, whatever its status; closed afterwards. Raises Unreachable."""
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=timeout_s or self.timeout_s)
        headers = self._headers if content is None else {**self._headers, "Content-Type": content_type}
        try:
            try:
                connection.request(method, self._path + path, content, headers)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise Unreachable(
                    f"{self.address}{path} does not answer: {error or type(error).__name__}; is the unit running?",
                    retry_after_s=_RETRY_AFTER_S,
                ) from error
            with response:
                yield response
        finally:
            connection.close()

    def ask(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        content_type: str = "application/json",
        *,
        timeout_s: float | None = None,
    ) -> bytes:
        """The body of a good answer. Raises Unreachable, what :func:`refusal` makes, and EngineError for a cut."""
        with self.answer(method, path, content, content_type, timeout_s=timeout_s) as response:
            body = read(response, path)
            if response.status >= 300:
                raise refusal(response, body)
            return body

    def ask_json(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Any:
        """As :meth:`ask`, of JSON. Raises EngineError where the answer is none."""
        content = self.ask(method, path, json.dumps(body).encode() if body else None, timeout_s=timeout_s)
        return parsed(content, path)


def read(response: http.client.HTTPResponse, path: str, first: int | None = None) -> bytes:
    """All of an answer, or what comes first of it, at most ``first`` bytes. Raises EngineError when it breaks off."""
    try:
        return response.read() if first is None else response.read1(first)
    except (OSError, http.client.HTTPException) as error:
        raise EngineError(
            f"{path} broke off: the server's journal says why, under the request's id"
        ) from error


def parsed(content: bytes, path: str) -> Any:
    """JSON that the service sent. Raises EngineError for anything else, which something else sent."""
    try:
        return json.loads(content)
    except ValueError as error:
        raise EngineError(f"{path} is no answer of this service: {_quoted(content)}") from error


def refusal(response: http.client.HTTPResponse, body: bytes) -> TTSError:
    """The error that an answer other than 2xx stands for, in the server's words and with its code."""
    status = response.status
    try:
        told = json.loads(body)["error"]
        message, code, param = str(told["message"]), told["code"], told["param"]
    except (ValueError, KeyError, TypeError):
        message, code, param = f"the server answers {status}: {_quoted(body)}", None, None
    error: TTSError
    if status in _NOT_LET_IN:
        error = Unauthorized(message, param=param)
    elif status in _NOT_NOW:
        wait = response.headers.get("Retry-After", "")
        error = Unavailable(
            message, retry_after_s=float(wait) if wait.isdecimal() else _RETRY_AFTER_S, param=param
        )
    elif status < 500:
        error = InvalidRequest(message, param=param)
    else:
        error = EngineError(message, param=param)
    if code:
        error.code = str(code)
    return error


def _quoted(content: bytes) -> str:
    return content.decode(errors="replace")[:_QUOTED].strip()
