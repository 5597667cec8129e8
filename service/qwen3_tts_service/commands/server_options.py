"""What all commands that ask a server have in common: its address, the key, and how their end is told."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, BinaryIO

import click

from ..client.server import DEFAULT_ADDRESS, Server
from ..errors import (
    EngineError,
    InvalidRequest,
    InvalidValue,
    TTSError,
    Unauthorized,
    Unavailable,
    Unreachable,
)

#: First match wins, so the special stand before the general. 2 is click's, for wrong usage.
EXIT_STATUS: tuple[tuple[type[TTSError], int, str], ...] = (
    (Unreachable, 3, "nobody answers at the server's address"),
    (InvalidRequest, 4, "the server refuses what was asked: text, voice, a value"),
    (Unauthorized, 5, "the server does not let this key, or this machine, in"),
    (Unavailable, 6, "the server is busy, loads, or goes down (429, 503, 504): try again later"),
    (EngineError, 7, "the server failed, or the answer broke off"),
    (TTSError, 1, "anything else, such as a file that cannot be written, or no player"),
)


def server_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that name a server; it gets it as ``server``."""

    @click.option(
        "--server",
        "address",
        default=DEFAULT_ADDRESS,
        show_default=True,
        envvar="QWEN3_TTS_CLIENT_SERVER",
        show_envvar=True,
        help="Address of the server.",
    )
    @click.option(
        "--key-file", type=click.File("rb"), help="File that holds the API key; - reads standard input."
    )
    @click.option(
        "--key",
        envvar="QWEN3_TTS_CLIENT_KEY",
        show_envvar=True,
        help="The API key, without --key-file. As an argument every user of this machine can see it: rather "
        "use the variable or the file.",
    )
    @click.option(
        "--timeout",
        default=300.0,
        show_default=True,
        type=click.FloatRange(min=0, min_open=True),
        help="Longest wait for the server's next bytes, in seconds.",
    )
    @functools.wraps(function)
    def with_server(
        address: str, key_file: BinaryIO | None, key: str | None, timeout: float, **chosen: Any
    ) -> Any:
        if key_file is not None:
            key = _key(key_file.read(), "--key-file")
        elif key is not None:
            key = _key(key.encode(), "--key")
        try:
            server = Server(address, key, timeout)
        except InvalidValue as error:
            raise click.BadParameter(error.message, param_hint="--server") from error
        return function(server=server, **chosen)

    return with_server


def told_by_exit_status(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--json``, and the exit status of :data:`EXIT_STATUS` where it ends with one of our errors.

    With --json the error is one object on standard output too, as the API's.
    """

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for an error too.")
    @functools.wraps(function)
    def telling(as_json: bool, **chosen: Any) -> Any:
        try:
            return function(as_json=as_json, **chosen)
        except TTSError as error:
            click.echo(f"qwen3-tts: {error.message}", err=True)
            if as_json:
                told: dict[str, Any] = {"message": error.message, "code": error.code, "param": error.param}
                if isinstance(error, Unavailable):
                    told |= {"retry_after_seconds": error.retry_after_s}
                click.echo(json.dumps({"error": told}))
            raise click.exceptions.Exit(exit_status(error)) from error

    return telling


def exit_status(error: TTSError) -> int:
    """The exit status that stands for an error."""
    return next(status for family, status, _ in EXIT_STATUS if isinstance(error, family))


def _key(content: bytes, option: str) -> str:
    try:
        key = content.decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise click.BadParameter("an API key is plain ASCII", param_hint=option) from error
    if not key or not key.isprintable():
        raise click.BadParameter("expected one API key, on one line", param_hint=option)
    return key
