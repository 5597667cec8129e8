"""RECORD, the list of files that pip leaves with every installed distribution, kept true.

A patched file whose line still had the old hash would look damaged to every integrity check, ours first.
Only the lines of patched files are touched; every other byte of RECORD stays.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import PatchError


@dataclass(frozen=True)
class Drift:
    """One file that is not what RECORD says: ``problem`` is "missing" or "changed"."""

    path: str
    problem: str
    expected: str
    found: str | None


def token(digest: bytes) -> str:
    """Return RECORD's spelling of a sha256: URL-safe base64 without padding."""
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def _line(path: str, content: bytes, ending: str) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator=ending).writerow(
        [path, token(hashlib.sha256(content).digest()), str(len(content))]
    )
    return out.getvalue()


def updated(record: str, contents: Mapping[str, bytes | None]) -> str:
    """Return RECORD with the lines of ``contents`` made true; None stands for a file that is gone.

    A line of a new file goes to the end.
    """
    lines = record.splitlines(keepends=True)
    ending = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    left = dict(contents)
    result: list[str] = []
    for line in lines:
        path = next(csv.reader([line]))[0] if line.strip() else ""
        if path not in contents:
            result.append(line)
            continue
        content = left.pop(path, None)
        if content is not None:
            result.append(_line(path, content, ending))
    added = [_line(path, content, ending) for path, content in left.items() if content is not None]
    if added and result and not result[-1].endswith("\n"):
        result[-1] += ending
    return "".join(result + added)


def scan(root: Path, record: Path) -> list[Drift]:
    """Compare every hashed file of a distribution with its RECORD line.

    Raises:
        PatchError: RECORD cannot be read.
    """
    try:
        rows = list(csv.reader(record.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise PatchError(f"{record} cannot be read: {error}", param=str(record)) from error
    drifts = []
    for row in rows:
        if len(row) < 2 or not row[1].startswith("sha256="):
            # RECORD itself and compiled files have no hash.
            continue
        path = root / row[0]
        try:
            with path.open("rb") as file:
                found = token(hashlib.file_digest(file, "sha256").digest())
        except OSError:
            drifts.append(Drift(row[0], "missing", row[1], None))
            continue
        if found != row[1]:
            drifts.append(Drift(row[0], "changed", row[1], found))
    return drifts
