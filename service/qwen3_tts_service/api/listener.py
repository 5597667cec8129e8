"""The socket to listen on: our own, or one that systemd holds and hands to one process after the other."""

from __future__ import annotations

import os
import socket

from ..errors import ConfigurationError

#: The first descriptor that is passed (SD_LISTEN_FDS_START).
_FIRST = 3


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


def inherited() -> socket.socket | None:
    """The listening socket that was passed (sd_listen_fds(3)); None where none was passed to this process.

    Raises ConfigurationError when it is anything else than one listening TCP socket.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = os.environ.get("LISTEN_FDS", "")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        # They are for this process and not for those that it starts.
        os.environ.pop(name, None)
    if count != "1":
        raise ConfigurationError(
            f"LISTEN_FDS is {count!r}: the socket unit has to have exactly one ListenStream=",
            param="LISTEN_FDS",
        )
    try:
        listener = socket.socket(fileno=_FIRST)
        listener.set_inheritable(False)
        listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ConfigurationError(
            f"LISTEN_FDS is 1, and descriptor {_FIRST} is no socket: {error}", param="LISTEN_FDS"
        ) from error
    if (
        not listens
        or listener.type != socket.SOCK_STREAM
        or listener.family not in (socket.AF_INET, socket.AF_INET6)
    ):
        raise ConfigurationError(
            "the socket that was passed does not listen for TCP: the socket unit needs ListenStream= with an address "
            "and a port, and Accept=no",
            param="LISTEN_FDS",
        )
    return listener
