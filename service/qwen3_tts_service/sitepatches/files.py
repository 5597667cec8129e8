"""Writing into an installed package so that a reader, a crash or a hard link never sees half of it."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import PatchError

#: Name of an unfinished file: hidden, and found again after a crash.
_UNFINISHED = ".{name}.qwen3-tts-unfinished"


def read_if_there(path: Path) -> bytes | None:
    """Return the file's content, or None where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PatchError(f"{path} cannot be read: {error.strerror}", param=str(path)) from error


def write_atomically(path: Path, content: bytes, *, like: Path) -> None:
    """Put ``content`` at ``path`` in one step, with mode and owner of the file ``like``.

    The file gets a new inode: a hard link of the old one (a package cache) keeps the old content. After a
    crash there is the old file or the new one; what was unfinished is removed by ``remove_unfinished``.

    Raises:
        PatchError: the folder cannot be written to; nothing has changed.
    """
    unfinished = path.with_name(_UNFINISHED.format(name=path.name))
    try:
        status = like.stat()
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), status.st_uid, status.st_gid)
                os.fchmod(file.fileno(), status.st_mode & 0o7777)
                os.fsync(file.fileno())
            unfinished.replace(path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise PatchError(
            f"{path} cannot be written: {error.strerror}; run as the owner of the environment, on a file "
            f"system "
            "that is mounted for writing",
            param=str(path),
        ) from error


def sync_folder(folder: Path) -> None:
    """Make a rename or removal in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove one file and make that durable."""
    try:
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            sync_folder(path.parent)
    except OSError as error:
        raise PatchError(f"{path} cannot be removed: {error.strerror}", param=str(path)) from error


def remove_unfinished(path: Path) -> None:
    """Remove what an interrupted ``write_atomically`` of ``path`` left behind."""
    unfinished = path.with_name(_UNFINISHED.format(name=path.name))
    if unfinished.exists():
        remove(unfinished)


def drop_bytecode(source: Path) -> None:
    """Remove the compiled forms of ``source``, of every interpreter and optimisation level.

    An unchecked .pyc (``compileall --invalidation-mode unchecked-hash``) would otherwise outlive its source.
    """
    folder = source.parent / "__pycache__"
    for compiled in sorted(folder.glob(f"{source.stem}.*.pyc")):
        # "utils.cpython-311.opt-1.pyc" is utils'; "utils.more.cpython-311.pyc" cannot be a module's.
        remove(compiled)
