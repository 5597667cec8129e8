"""Pristine copies of patched files, kept beside the packages and never inside them.

They lie under ``PREFIX/share/qwen3-tts/sitepatches/PATCH/``: ``manifest.json`` says what was patched from
which hash to which, ``pristine/`` holds the files as their wheel brought them. The manifest is written
before the first package file changes, so that an interrupted run can always be finished or undone.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import PatchError
from .files import read_if_there, remove, write_atomically
from .patchset import sha256


@dataclass(frozen=True)
class Manifest:
    """What a patch did here.

    ``files`` maps a path to (sha256 before or None when it was added, sha256 after), in the order of writing.
    """

    version: str
    files: dict[str, tuple[str | None, str]]


class Store:
    """The pristine copies of one patch in one environment."""

    def __init__(self, prefix: Path, patch: str) -> None:
        self._root = prefix / "share" / "qwen3-tts" / "sitepatches"
        self._folder = self._root / patch
        self._manifest = self._folder / "manifest.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second run away from the environment while this one changes it."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            lock = (self._root / ".lock").open("w")
        except OSError as error:
            raise PatchError(
                f"{self._root} cannot be written: {error.strerror}; run as the owner of the environment, on "
                f"a file "
                "system that is mounted for writing",
                param=str(self._root),
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def manifest(self) -> Manifest | None:
        """Return what is recorded, or None where this patch was never applied or was reverted."""
        content = read_if_there(self._manifest)
        if content is None:
            return None
        try:
            data = json.loads(content)
            return Manifest(
                data["version"], {path: (entry[0], entry[1]) for path, entry in data["files"].items()}
            )
        except (ValueError, KeyError, TypeError) as error:
            raise PatchError(
                f"{self._manifest} is damaged; reinstall the distribution and apply again",
                param=str(self._manifest),
            ) from error

    def save(self, manifest: Manifest, pristine: dict[str, bytes], *, like: Path) -> None:
        """Keep the pristine copies, then the manifest; ``like`` lends mode and owner."""
        for path, content in pristine.items():
            copy = self._copy(path)
            if read_if_there(copy) != content:
                copy.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(copy, content, like=like)
        data = {"version": manifest.version, "files": manifest.files}
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._manifest, json.dumps(data, indent=1).encode(), like=like)

    def pristine(self, path: str, before: str) -> bytes:
        """Return the kept copy of ``path``, whose sha256 must be ``before``."""
        content = read_if_there(self._copy(path))
        if content is None or sha256(content) != before:
            found = "missing" if content is None else f"sha256 {sha256(content)}"
            raise PatchError(
                f"the pristine copy {self._copy(path)} is {found}, expected sha256 {before}; reinstall the "
                "distribution with `pip install --force-reinstall --no-deps`",
                param=path,
            )
        return content

    def forget(self) -> None:
        """Drop manifest and copies, the manifest first: without it the copies mean nothing."""
        remove(self._manifest)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _copy(self, path: str) -> Path:
        return self._folder / "pristine" / path
