"""Whose bodies are taken: a large one only from who shows a key, where there are keys.

Keys are judged by the application, which sees a request when all of it has arrived. Until then a stranger could fill
the disk with bodies, one on each connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from waitress.parser import HTTPRequestParser
from waitress.utilities import Error

#: What a stranger may send, in bytes: enough for any request but recordings, whose answer then says what is wrong.
STRANGERS_BYTES = 64 * 1024


class KeyNeeded(Error):  # type: ignore[misc]
    """The server's own refusal, as waitress keeps it."""

    code = 401
    reason = "Unauthorized"


class Parser(HTTPRequestParser):  # type: ignore[misc]
    """Reads one request; ``opens`` says whether an Authorization header holds a key, or none is needed."""

    content_length: int

    def __init__(self, opens: Callable[[str | None], bool], adjustments: Any) -> None:
        super().__init__(adjustments)
        self._opens = opens

    def parse_header(self, header_plus: bytes) -> None:
        """As its parent's; a large body without a key ends the request here."""
        super().parse_header(header_plus)
        large = self.chunked or self.content_length > STRANGERS_BYTES
        if large and not self._opens(self.headers.get("AUTHORIZATION")):
            self.error = KeyNeeded(
                f"a body of more than {STRANGERS_BYTES} bytes, or of unknown length, needs an API key: send the "
                "header `Authorization: Bearer KEY`"
            )
            # The rest is neither read nor asked for.
            self.content_length, self.expect_continue = 0, False
            self.completed = True
