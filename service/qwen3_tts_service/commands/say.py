"""``qwen3-tts say``: text to a file, a pipe or the speakers."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, NoReturn

import click

from ..client import voices
from ..client.server import Server
from ..client.speech import Speech, speak
from ..errors import UnknownVoice
from .outputs import Write, find_player, into_file, into_player, into_stdout
from .server_options import server_options, told_by_exit_status

#: A file's ending -> the format that it stands for.
_ENDINGS = {
    ".mp3": "mp3",
    ".opus": "opus",
    ".ogg": "opus",
    ".aac": "aac",
    ".flac": "flac",
    ".wav": "wav",
    ".pcm": "pcm",
}
_FORMATS = tuple(dict.fromkeys(_ENDINGS.values()))
#: How often the server is asked how far it is (seconds).
_PROGRESS_EVERY_S = 0.5
_BAR = 24


@click.command(name="say")
@click.argument("text", required=False)
@click.option("--file", "text_file", type=click.File("rb"), help="Read the text from there, UTF-8.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Write the sound there; - is standard output.",
)
@click.option("--play", is_flag=True, help="Play it, with paplay, aplay or ffplay.")
@click.option(
    "--format",
    "audio_format",
    type=click.Choice(_FORMATS),
    help="Default: by the ending of -o; wav on standard output.",
)
@click.option("--voice", help="A name of `qwen3-tts voices list`. Default: the first of them.")
@click.option("--language", help="Default: the model decides.")
@click.option(
    "--instructions", help="How to speak; without --voice, who speaks (where a model designs voices)."
)
@click.option("--speed", type=click.FloatRange(0.25, 4), help="As many times as fast, at the same pitch.")
@click.option("--seed", type=click.IntRange(min=0), help="The same seed and text give the same speech.")
@click.option("--model", help="One of several models of the server. Default: whichever fits.")
@told_by_exit_status
@server_options
def command(
    server: Server,
    as_json: bool,
    text: str | None,
    text_file: BinaryIO | None,
    output: Path | None,
    play: bool,
    audio_format: str | None,
    voice: str | None,
    **fields: Any,
) -> None:
    """Speak TEXT; - reads it from standard input.

    Without -o and --play the sound goes to standard output where that is a pipe or a file, and to the speakers where
    it is a terminal. It leaves while it is made. A file appears under its name only when it is whole. On a terminal
    a bar tells how much of a long text is spoken.

    \b
    Exit status:
      0    all of it was spoken
      1    something on this machine: a file, no player, nobody reads the pipe
      2    wrong usage
      3    nobody answers at the server's address
      4    the server refuses what was asked: text, voice, a value
      5    the server does not let this key, or this machine, in
      6    the server is busy, loads, or goes down: try again later
      7    the server failed, or the speech broke off
      130  interrupted; 143: ended by SIGTERM
    """
    spoken = _text(text, text_file)
    target, audio_format = _target(output, play, audio_format, as_json)
    body = {name: value for name, value in fields.items() if value is not None}
    body |= {"input": spoken, "response_format": audio_format, "voice": voice or _first_voice(server, body)}
    count = 0
    with (
        _ended_in_order(),
        speak(server, {name: value for name, value in body.items() if value is not None}) as speech,
        _progress(speech) as told,
        target as write,
    ):
        for piece in speech:
            write(piece)
            count += len(piece)
            told()
    named = str(output) if output is not None else None
    if as_json:
        click.echo(json.dumps({"output": named, "format": audio_format, "bytes": count, **speech.facts}))
    else:
        click.echo(_summary(named, speech.facts), err=True)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM is like an interruption: no half file and no player stays behind."""

    def terminated(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _text(text: str | None, file: BinaryIO | None) -> str:
    if (text is None) == (file is None):
        raise click.UsageError("give either TEXT (- reads standard input) or --file FILE")
    if file is None and text != "-":
        assert text is not None
        return text
    content = (file or sys.stdin.buffer).read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"the text is not UTF-8: {error.reason} at byte {error.start}") from error


def _target(
    output: Path | None, play: bool, audio_format: str | None, as_json: bool
) -> tuple[AbstractContextManager[Write], str]:
    """What takes the sound, and the format that it is to be asked for."""
    if play and output is not None:
        raise click.UsageError("give either --play or -o")
    if play or (output is None and sys.stdout.isatty()):
        if audio_format is not None:
            raise click.UsageError("--format is for -o: what is played has the player's format")
        player, audio_format = find_player()
        return into_player(player), audio_format
    if output is None or str(output) == "-":
        if as_json:
            raise click.UsageError("--json prints where the sound goes: add -o FILE or --play")
        return into_stdout(), audio_format or "wav"
    audio_format = audio_format or _ENDINGS.get(output.suffix.lower())
    if audio_format is None:
        raise click.UsageError(
            f"{output} does not end with a format's name ({', '.join(_ENDINGS)}): rename it, or add --format"
        )
    return into_file(output, wav=audio_format == "wav"), audio_format


def _first_voice(server: Server, fields: dict[str, Any]) -> str | None:
    """Whoever speaks when nobody is named; None where the model, or the instructions, say who it is."""
    if "instructions" in fields:
        return None
    there = [
        voice["id"]
        for voice in voices.all_voices(server)
        if "model" not in fields or voice.get("model") == fields["model"]
    ]
    if not there:
        raise UnknownVoice(
            "the server has no voice: save one (`qwen3-tts voices add`), or describe one with --instructions",
            param="voice",
        )
    return str(there[0])


@contextmanager
def _progress(speech: Speech) -> Iterator[Any]:
    """Called after each piece; on a terminal it keeps one line on standard error up to date, else it is silent."""
    if not on_terminal():
        yield lambda: None
        return
    asked = time.monotonic()

    def tell() -> None:
        nonlocal asked
        if time.monotonic() - asked < _PROGRESS_EVERY_S:
            return
        speech.ask_progress()
        asked = time.monotonic()
        if speech.facts:
            click.echo(f"\r{progress_line(speech.facts)}\x1b[K", err=True, nl=False)

    try:
        yield tell
    finally:
        click.echo("\r\x1b[K", err=True, nl=False)


def on_terminal() -> bool:
    """Whether somebody sees a line that changes."""
    return sys.stderr.isatty()


def progress_line(facts: dict[str, Any]) -> str:
    """How much is spoken: whole parts of a long text, and the seconds of sound."""
    sound = f"{facts['audio_seconds']:.1f} s of sound"
    parts, part = facts["parts"], facts["part"]
    if parts == 1:
        return sound
    full = _BAR * part // parts
    return f"[{'#' * full}{'-' * (_BAR - full)}] part {part + 1} of {parts}, {sound}"


def _summary(output: str | None, facts: dict[str, Any]) -> str:
    where = "" if output in (None, "-") else f"{output}: "
    cut = "; cut off: it is the longest that may be asked for" if facts["finish_reason"] == "length" else ""
    first = facts["first_audio_seconds"]
    return (
        f"{where}{facts['audio_seconds']:.2f} s of sound, voice {facts['voice']}, seed {facts['seed']}"
        f"{f', the first after {first:.2f} s' if first is not None else ''}{cut}"
    )
