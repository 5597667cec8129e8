"""API keys: who may ask for speech."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigurationError, Unauthorized

_LINE = re.compile(r"(?P<name>\S+)\s+sha256:(?P<digest>[0-9a-f]{64})")


@dataclass(frozen=True)
class KeyRing:
    """The keys' names and SHA-256 digests. The keys themselves are nowhere on the host.

    A fast hash is right here: keys are long random words and not passwords.
    """

    digests: tuple[tuple[str, bytes], ...] = ()

    @classmethod
    def read(cls, file: Path | None) -> KeyRing:
        """Read lines ``NAME sha256:HEX``; blank lines and ``#`` comments are skipped; None: no keys.

        Raises ConfigurationError naming the line, never its content.
        """
        if file is None:
            return cls()
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"key file {file} cannot be read: {error}", param="api_keys_file"
            ) from error
        digests = []
        for number, line in enumerate(map(str.strip, lines), start=1):
            if not line or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line)
            if match is None:
                raise ConfigurationError(
                    f"key file {file}, line {number}: expected `NAME sha256:` and 64 hexadecimal digits",
                    param="api_keys_file",
                )
            digests.append((match["name"], bytes.fromhex(match["digest"])))
        if not digests:
            raise ConfigurationError(f"key file {file} holds no key", param="api_keys_file")
        return cls(tuple(digests))

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
