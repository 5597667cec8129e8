"""``qwen3-tts man``: the manual page, made of the commands themselves, so that it tells what they are."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from .. import __version__
from .server_options import EXIT_STATUS


@click.command(name="man")
@click.pass_context
def command(context: click.Context) -> None:
    """Print the manual page: `qwen3-tts man | man -l -`."""
    click.echo(page(context.find_root().command))


def page(group: click.Command) -> str:
    """The page as troff with the macros of man(7)."""
    lines = [
        f'.TH QWEN3\\-TTS 1 "" "qwen3\\-tts {_plain(__version__)}"',
        ".SH NAME",
        "qwen3\\-tts \\- speech from text, and the server that makes it",
        ".SH SYNOPSIS",
        ".B qwen3\\-tts",
        "COMMAND [OPTIONS] [ARGUMENTS]",
        ".SH DESCRIPTION",
        *_paragraphs(group.help),
        ".SH COMMANDS",
    ]
    context = click.Context(group, info_name="qwen3-tts")
    for name, each in _commands(group, context):
        lines += _section(name, each)
    lines += [".SH EXIT STATUS", "Of the commands that ask a server (say, voices):"]
    told = [(0, "done"), (2, "wrong usage"), (130, "interrupted")]
    told += [(status, words) for _, status, words in EXIT_STATUS]
    for status, words in sorted(told):
        lines += [".TP", f".B {status}", _plain(words)]
    lines += [
        "Of every other one: 0 when it is done, 1 when it is not, 2 for wrong usage, unless it says otherwise."
    ]
    return "\n".join(lines)


def _commands(command: click.Command, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by all of its name."""
    if not isinstance(command, click.Group):
        yield context.command_path, command
        return
    for name in command.list_commands(context):
        each = command.get_command(context, name)
        assert each is not None
        yield from _commands(each, click.Context(each, info_name=name, parent=context))


def _section(name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=name)
    yield f".SS {_plain(' '.join([name, *command.collect_usage_pieces(context)]))}"
    yield from _paragraphs(command.help)
    for parameter in command.get_params(context):
        option, words = parameter.get_help_record(context) or ("", "")
        # An argument has no words of its own: the command's tell of it.
        if isinstance(parameter, click.Option) and option:
            yield from (".TP", f".B {_plain(option)}", _plain(words))


def _paragraphs(text: str | None) -> Iterator[str]:
    for number, paragraph in enumerate(inspect.cleandoc(text or "").split("\n\n")):
        if number:
            yield ".PP"
        if paragraph.startswith("\b"):
            # Lines that stay as they are, as in the help.
            yield from (".nf", *map(_plain, paragraph.splitlines()[1:]), ".fi")
        else:
            yield _plain(" ".join(paragraph.split()))


def _plain(text: str) -> str:
    """Text in which troff sees no request of its own."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped
