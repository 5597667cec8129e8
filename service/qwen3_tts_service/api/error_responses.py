"""Our errors, and the framework's, as HTTP answers in OpenAI's shape: the one place that maps them."""

from __future__ import annotations

import logging
import math
import re

from flask import Flask, Response, g, jsonify
from werkzeug.exceptions import HTTPException

from .. import errors

logger = logging.getLogger(__name__)

#: An absolute path of two parts or more, so that no "and/or" is one.
_PATH = re.compile(r"(?<![\w.])(/[\w.@+~-]+){2,}/?(:\d+)?")

#: First match wins, so the special stand before the general. 499: the client is gone and reads nothing.
_STATUS: tuple[tuple[type[errors.TTSError], int, str], ...] = (
    (errors.UnknownModel, 404, "invalid_request_error"),
    (errors.NoSuchVoice, 404, "invalid_request_error"),
    (errors.InvalidRequest, 400, "invalid_request_error"),
    (errors.Unauthorized, 401, "authentication_error"),
    (errors.Forbidden, 403, "permission_error"),
    (errors.Misdirected, 421, "permission_error"),
    (errors.QueueFull, 429, "rate_limit_error"),
    (errors.RateLimited, 429, "rate_limit_error"),
    (errors.DeadlineExceeded, 504, "timeout_error"),
    (errors.Unavailable, 503, "unavailable_error"),
    (errors.Cancelled, 499, "cancelled"),
    (errors.NoVoiceDirectory, 501, "server_error"),
    (errors.StorageFull, 507, "server_error"),
    (errors.TTSError, 500, "server_error"),
)


def body(message: str, *, kind: str, param: str | None = None, code: str | None = None) -> dict[str, object]:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def described(error: errors.TTSError) -> dict[str, object]:
    """The error object of one of our errors."""
    status, kind = _meaning(error)
    message = error.message if status < 500 else without_paths(error.message)
    return body(message, kind=kind, param=error.param, code=error.code)


def status_of(error: errors.TTSError) -> int:
    """The HTTP status of one of our errors."""
    return _meaning(error)[0]


def _meaning(error: errors.TTSError) -> tuple[int, str]:
    return next((status, kind) for family, status, kind in _STATUS if isinstance(error, family))


def without_paths(message: str) -> str:
    """A message about this machine, without where things lie on it; the journal has that."""
    return _PATH.sub("(path)", message)


def register(app: Flask) -> None:
    """Answer every error of ``app`` in that shape; a client never sees a traceback."""
    app.register_error_handler(errors.TTSError, _ours)
    app.register_error_handler(HTTPException, _framework)
    app.register_error_handler(Exception, _unexpected)


def _ours(error: errors.TTSError) -> Response:
    status = status_of(error)
    if status == 500:
        logger.error("%s failed: %s", g.get("request_id", "-"), error.message)
    else:
        # The message quotes the client; its code and field do for the journal.
        logger.info(
            "%s key=%s refused with %d %s param=%.60r",
            g.get("request_id", "-"),
            g.get("key_name", "-"),
            status,
            error.code,
            error.param,
        )
    response = jsonify(described(error))
    response.status_code = status
    if isinstance(error, errors.Unavailable):
        response.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _framework(error: HTTPException) -> Response:
    status = error.code or 500
    kind = "invalid_request_error" if status < 500 else "server_error"
    response = jsonify(
        body(error.description or error.name, kind=kind, code=error.name.lower().replace(" ", "_"))
    )
    response.status_code = status
    for name, value in error.get_headers():
        if name in ("Allow", "Retry-After"):
            response.headers[name] = value
    return response


def _unexpected(error: Exception) -> Response:
    logger.error("%s failed unexpectedly", g.get("request_id", "-"), exc_info=error)
    response = jsonify(
        body("the server failed; its journal has the details", kind="server_error", code="internal_error")
    )
    response.status_code = 500
    return response
