"""Where sound goes: a file that is whole or not there, a pipe, or the speakers."""

from __future__ import annotations

import os
import queue
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import OutputError

Write = Callable[[bytes], None]

#: Programs that play what they read from a pipe, the best first, and the format that each of them is sent.
PLAYERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "paplay": ("pcm", ("--raw", "--rate=24000", "--channels=1", "--format=s16le")),
    "aplay": ("pcm", ("-q", "-t", "raw", "-f", "S16_LE", "-r", "24000", "-c", "1", "-")),
    "ffplay": ("wav", ("-nodisp", "-autoexit", "-loglevel", "error", "-i", "-")),
}
#: Where the two lengths stand in a WAV's header, and the header's bytes after which each begins to count.
_WAV_LENGTHS = ((4, 8), (40, 44))


@contextmanager
def into_file(path: Path, *, wav: bool = False) -> Iterator[Write]:
    """Write beside ``path`` under a temporary name, and move it there at the end; after an error nothing is left.

    A device or a pipe is written to as it is. ``wav``: the lengths, which a streamed header cannot know, are put in.
    Raises OutputError.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        with _told(path), target.open("wb", buffering=0) as stream:
            yield _writer(stream, path)
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    with _told(path):
        file = temporary.open("xb")
    try:
        with file:
            yield _writer(file, path)
            if wav:
                _tell_lengths(file)
        with _told(path):
            temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def into_stdout() -> Iterator[Write]:
    """Write to standard output, piece by piece. Raises OutputError when nobody reads it any more."""
    stream = sys.stdout.buffer

    def write(content: bytes) -> None:
        try:
            stream.write(content)
            stream.flush()
        except BrokenPipeError as error:
            # Python flushes once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise OutputError("whoever read standard output has gone away") from error
        except OSError as error:
            raise OutputError(f"standard output cannot be written: {error.strerror}") from error

    yield write


def find_player() -> tuple[str, str]:
    """The first of :data:`PLAYERS` that is installed, and the format that it is sent. Raises OutputError."""
    for name, (audio_format, _) in PLAYERS.items():
        if shutil.which(name):
            return name, audio_format
    raise OutputError(
        f"no player is installed ({', '.join(PLAYERS)}): install one (Debian: alsa-utils), write a file with "
        "-o FILE, or pipe the sound to where a loudspeaker is: -o - | ssh HOST ffplay -nodisp -autoexit -i -"
    )


@contextmanager
def into_player(name: str) -> Iterator[Write]:
    """Play with one of :data:`PLAYERS`; ends when all was heard. Raises OutputError with what the player says.

    What is not played yet waits here and not in the server, where it would keep a place from others.
    """
    with tempfile.TemporaryFile() as said:
        player = subprocess.Popen([name, *PLAYERS[name][1]], stdin=subprocess.PIPE, stderr=said)
        stdin = player.stdin
        assert stdin is not None
        waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

        def feed() -> None:
            # A player that ends early tells why by itself.
            with suppress(BrokenPipeError), stdin:
                while (content := waiting.get()) is not None:
                    stdin.write(content)

        def failed() -> OutputError:
            said.seek(0)
            words = said.read().decode(errors="replace").strip().splitlines()
            return OutputError(
                f"{name} cannot play: {words[-1] if words else f'it ended with status {player.returncode}'}; "
                "-o FILE writes a file"
            )

        def write(content: bytes) -> None:
            if player.poll() is not None:
                raise failed()
            waiting.put(content)

        feeder = threading.Thread(target=feed, name="player", daemon=True)
        feeder.start()
        try:
            yield write
            waiting.put(None)
            feeder.join()
            if player.wait() != 0:
                raise failed()
        finally:
            # After an interruption nothing more shall be heard.
            player.kill()
            player.wait()
            waiting.put(None)
            feeder.join()


def _writer(stream: BinaryIO, path: Path) -> Write:
    def write(content: bytes) -> None:
        with _told(path):
            stream.write(content)

    return write


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}", param=str(path)) from error


def _tell_lengths(file: BinaryIO) -> None:
    size = file.tell()
    for place, counted_from in _WAV_LENGTHS:
        file.seek(place)
        file.write(struct.pack("<I", size - counted_from))
