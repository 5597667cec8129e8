"""``qwen3-tts voices``: who can speak, and the voices that a server keeps."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, BinaryIO

import click

from ..client import voices
from ..client.server import Server
from .outputs import into_file, into_stdout
from .server_options import server_options, told_by_exit_status

_COLUMNS = ("name", "kind", "language", "model", "id")


@click.group(name="voices")
def command() -> None:
    """List, save, rename and remove a server's voices. Exit status as of `qwen3-tts say`."""


@command.command(name="list")
@told_by_exit_status
@server_options
def list_(server: Server, as_json: bool) -> None:
    """Who can speak."""
    everybody = voices.all_voices(server)
    if as_json:
        click.echo(json.dumps({"voices": everybody}))
        return
    rows = [[column.upper() for column in _COLUMNS]]
    rows += [[str(voice.get(column) or "-") for column in _COLUMNS] for voice in everybody]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(map(str.ljust, row, widths)).rstrip())


@command.command()
@click.argument("voice")
@told_by_exit_status
@server_options
def show(server: Server, as_json: bool, voice: str) -> None:
    """All that is told of VOICE, a name or an id."""
    _told(voices.find(server, voice), as_json)


@command.command()
@click.argument("name")
@click.argument("recording", type=click.File("rb"))
@click.option(
    "--consent",
    is_flag=True,
    required=True,
    help="Say that the person whose voice it is agreed. It is not saved without.",
)
@click.option("--ref-text", help="What is said in the recording: with it the voice comes closest.")
@click.option("--language", help="The voice's language, for the list.")
@click.option("--model", help="The Base model that takes it, of several.")
@told_by_exit_status
@server_options
def add(
    server: Server, as_json: bool, name: str, recording: BinaryIO, consent: bool, **fields: str | None
) -> None:
    """Save the voice of RECORDING as NAME: wav, mp3, flac, ogg or m4a, 1 to 60 s; - reads standard input."""
    if not consent:
        raise click.UsageError(
            "--consent says that the person whose voice it is agreed; it is not saved without"
        )
    form = {"name": name, "consent": "true"}
    form |= {field: value for field, value in fields.items() if value is not None}
    _told(voices.add(server, recording.read(), form), as_json)


@command.command()
@click.argument("name")
@click.argument("description")
@click.option("--text", required=True, help="What the voice says to be heard: a sentence or two.")
@click.option("--language", help="The language of the text. Default: the model decides.")
@click.option("--seed", type=click.IntRange(min=0), help="The same seed gives the same voice.")
@click.option("--model", help="The Base model that takes the voice, of several.")
@told_by_exit_status
@server_options
def design(server: Server, as_json: bool, name: str, description: str, **fields: Any) -> None:
    """Save the voice that DESCRIPTION makes as NAME, where the server has a model that designs voices."""
    body = {"name": name, "design": description}
    body |= {field: value for field, value in fields.items() if value is not None}
    _told(voices.design(server, body), as_json)


@command.command()
@click.argument("voice")
@click.argument("name")
@told_by_exit_status
@server_options
def rename(server: Server, as_json: bool, voice: str, name: str) -> None:
    """Call VOICE, the name or id of a saved voice, NAME from now on."""
    _told(voices.rename(server, voices.saved(server, voice), name), as_json)


@command.command()
@click.argument("voice")
@told_by_exit_status
@server_options
def remove(server: Server, as_json: bool, voice: str) -> None:
    """Forget VOICE, the name or id of a saved voice. What it speaks just now is finished."""
    _told(voices.remove(server, voices.saved(server, voice)), as_json)


@command.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    required=True,
    help="Write the file there; - is standard output.",
)
@told_by_exit_status
@server_options
def export(server: Server, as_json: bool, output: Path) -> None:
    """Write all saved voices into one file, as a backup. It holds voices of people: keep it as such."""
    to_stdout = str(output) == "-"
    if to_stdout and as_json:
        raise click.UsageError("--json prints where the voices go: add -o FILE")
    content = voices.exported(server)
    with into_stdout() if to_stdout else into_file(output) as write:
        write(content)
    if as_json:
        click.echo(json.dumps({"output": str(output), "bytes": len(content)}))
    elif sys.stderr.isatty():
        click.echo(f"{output}: {len(content)} bytes", err=True)


@command.command(name="import")
@click.argument("file", type=click.File("rb"))
@told_by_exit_status
@server_options
def import_(server: Server, as_json: bool, file: BinaryIO) -> None:
    """Bring back the voices of FILE, all or none; those that are there stay as they are."""
    _told(voices.import_(server, file.read()), as_json)


def _told(answer: dict[str, Any], as_json: bool) -> None:
    """One fact a line, or one JSON object."""
    if as_json:
        click.echo(json.dumps(answer))
        return
    for name, value in answer.items():
        if value is not None:
            click.echo(f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
