"""Saved voices on a disk: a directory for each, written beside its place and then moved there.

A directory is there as a whole or not at all, whenever the power goes: names that begin with a dot are unfinished or
removed, and the next start sweeps them away.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import StorageFault, StorageFull
from .saved import SavedVoice, Words, from_tensors, is_id, pack, to_tensors, unpack

logger = logging.getLogger(__name__)

_WORDS, _NUMBERS = "voice.json", "prompt.safetensors"
_UNFINISHED, _REMOVED = ".new-", ".removed-"
#: No file of ours is larger; what is, is not read.
_LARGEST_FILE = 1 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_RETRY_S = 60.0


@contextmanager
def _told_apart() -> Iterator[None]:
    """A full disk is one thing, everything else that a disk says another."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFull(
                f"the disk that keeps the voices has no room ({error.strerror}): nothing was kept; free some "
                "space, or delete voices"
            ) from error
        logger.error("the saved voices cannot be written: %s", error)
        raise StorageFault(
            f"the place of the saved voices cannot be written ({error.strerror}): the change was not kept; the "
            "server's journal has the details",
            retry_after_s=_RETRY_S,
        ) from error


class VoiceFiles:
    """The voices below ``directory``, which is made by the first one. One writer at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self) -> list[SavedVoice]:
        """Every voice that is whole. What is not is logged and left alone, for a person to look at."""
        voices = []
        try:
            entries = sorted(self._directory.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            logger.error("the saved voices in %s cannot be read: %s", self._directory, error)
            return []
        for entry in entries:
            if entry.name.startswith((_UNFINISHED, _REMOVED)):
                shutil.rmtree(entry, ignore_errors=True)
            elif is_id(entry.name):
                try:
                    voices.append(_read(entry))
                except (OSError, ValueError) as error:
                    logger.error("the saved voice in %s is left out: %s", entry, error)
        return voices

    def add(self, voices: Sequence[SavedVoice]) -> None:
        """Write new voices, all of them or none. Raises StorageFull and StorageFault."""
        unfinished = [self._directory / f"{_UNFINISHED}{voice.words.id}" for voice in voices]
        there: list[Path] = []
        try:
            with _told_apart():
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                for voice, beside in zip(voices, unfinished, strict=True):
                    shutil.rmtree(beside, ignore_errors=True)
                    beside.mkdir(mode=0o700)
                    _write(beside / _NUMBERS, pack(to_tensors(voice.prompt)))
                    _write(beside / _WORDS, _json(voice.words))
                    _settle(beside)
                for voice, beside in zip(voices, unfinished, strict=True):
                    place = self._directory / voice.words.id
                    if place.exists():
                        # One that could not be read; what comes, from a backup, is its cure.
                        self._put_away(voice.words.id)
                    beside.rename(place)
                    there.append(place)
                _settle(self._directory)
        except BaseException:
            for leftover in (*unfinished, *there):
                shutil.rmtree(leftover, ignore_errors=True)
            raise

    def rewrite(self, words: Words) -> None:
        """Replace the words of a voice. Raises StorageFull and StorageFault; then the old ones stay."""
        place = self._directory / words.id
        beside = place / f"{_UNFINISHED}{_WORDS}"
        try:
            with _told_apart():
                _write(beside, _json(words))
                beside.replace(place / _WORDS)
                _settle(place)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise

    def remove(self, voice_id: str) -> None:
        """Remove a voice, also one whose directory is gone already. Raises StorageFault."""
        with _told_apart(), contextlib.suppress(FileNotFoundError):
            self._put_away(voice_id)
            _settle(self._directory)

    def _put_away(self, voice_id: str) -> None:
        removed = self._directory / f"{_REMOVED}{voice_id}"
        shutil.rmtree(removed, ignore_errors=True)
        (self._directory / voice_id).rename(removed)
        shutil.rmtree(removed, ignore_errors=True)


def _json(words: Words) -> bytes:
    return words.model_dump_json(indent=2).encode() + b"\n"


def _read(directory: Path) -> SavedVoice:
    words = Words.model_validate_json(_content(directory / _WORDS))
    if words.id != directory.name:
        raise ValueError(f"it holds the voice {words.id}")
    tensors, _ = unpack(_content(directory / _NUMBERS))
    return SavedVoice(words, from_tensors(tensors, words))


def _content(file: Path) -> bytes:
    with file.open("rb") as stream:
        content = stream.read(_LARGEST_FILE + 1)
    if len(content) > _LARGEST_FILE:
        raise ValueError(f"{file.name} has more than {_LARGEST_FILE} bytes")
    return content


def _write(file: Path, content: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _settle(directory: Path) -> None:
    """Names, too, are on the disk only when it was told to write them."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
