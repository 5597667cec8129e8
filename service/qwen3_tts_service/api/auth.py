"""API keys: who may ask for speech."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigurationError, Unauthorized

logger = logging.getLogger(__name__)

_LINE = re.compile(r"(?P<name>\S+)\s+sha256:(?P<digest>[0-9a-f]{64})")


class KeyRing:
    """The keys' names and SHA-256 digests. The keys themselves are nowhere on the host.

    A fast hash is right here: keys are long random words and not passwords.
    """

    def __init__(
        self,
        digests: tuple[tuple[str, bytes], ...] = (),
        *,
        find: Callable[[], Path | None] = lambda: None,
    ) -> None:
        """``find`` is how :meth:`reload` finds their file."""
        #: Replaced as a whole, so that threads which compare see the old keys or the new ones.
        self.digests = digests
        self._find = find

    @classmethod
    def read(cls, find: Callable[[], Path | None]) -> KeyRing:
        """Read the file of lines ``NAME sha256:HEX``; blank lines and ``#`` comments are skipped; None: no keys.

        Raises ConfigurationError naming the line, never its content.
        """
        file = find()
        return cls(_read(file) if file else (), find=find)

    def reload(self) -> None:
        """Read the file again, and say in the journal what came of it. A file that is wrong changes nothing."""
        file = self._find()
        if file is None:
            logger.warning(
                "there is no key file to read again: name one in QWEN3_TTS_API_KEYS_FILE and restart"
            )
            return
        before = dict(self.digests)
        try:
            self.digests = _read(file)
        except ConfigurationError as error:
            logger.error("the %d API keys stay as they were: %s", len(before), error.message)
            return
        now = dict(self.digests)
        logger.info(
            "read %s again: %d API keys; new: %s; gone: %s; changed: %s",
            file,
            len(now),
            ", ".join(sorted(now.keys() - before.keys())) or "none",
            ", ".join(sorted(before.keys() - now.keys())) or "none",
            ", ".join(sorted(name for name in now.keys() & before.keys() if now[name] != before[name]))
            or "none",
        )

    def opens(self, header: str | None) -> bool:
        """Whether :meth:`authenticate` takes that header."""
        try:
            self.authenticate(header)
        except Unauthorized:
            return False
        return True

    def authenticate(self, header: str | None) -> str:
        """Return the name of the key in an Authorization header; ``-`` where no keys are configured.

        Compares with every key in constant time. Raises Unauthorized.
        """
        if not self.digests:
            return "-"
        scheme, _, key = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthorized("an API key is needed: send the header `Authorization: Bearer KEY`")
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        matches = [name for name, known in self.digests if hmac.compare_digest(known, digest)]
        if not matches:
            raise Unauthorized("the API key is not known here")
        return matches[0]


def _read(file: Path) -> tuple[tuple[str, bytes], ...]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"key file {file} cannot be read: {error}", param="api_keys_file") from error
    digests: dict[str, bytes] = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ConfigurationError(
                f"key file {file}, line {number}: expected `NAME sha256:` and 64 hexadecimal digits",
                param="api_keys_file",
            )
        if match["name"] in digests:
            raise ConfigurationError(
                f"key file {file}, line {number}: there is a key of that name above", param="api_keys_file"
            )
        digests[match["name"]] = bytes.fromhex(match["digest"])
    if not digests:
        raise ConfigurationError(f"key file {file} holds no key", param="api_keys_file")
    return tuple(digests.items())
