"""The command ``qwen3-tts``: a thin group whose subcommands are imported only when they run.

Importing torch takes seconds, and ``qwen3-tts --help``, ``patch`` or ``doctor`` need none of it.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click
from click.shell_completion import CompletionItem

from . import __version__
from .errors import TTSError

#: Subcommand -> module under ``commands/`` (each holds one click command named ``command``) and its help line.
SUBCOMMANDS: dict[str, tuple[str, str]] = {
    "bench": ("bench", "Measure a checkpoint on this host, beside upstream and the hardware's floor."),
    "checkpoint": ("checkpoint", "Write synthetic checkpoints: random weights, real geometry."),
    "completion": ("completion", "Print what a shell needs to complete these commands."),
    "compile": ("compile", "Compile what `serve` needs, ahead of its start."),
    "doctor": ("doctor", "Ask a running server for one sentence and check what comes back."),
    "drain": ("drain", "Take a running server out of rotation, or bring it back."),
    "man": ("man", "Print the manual page."),
    "models": ("models", "Fetch, list and verify model weights."),
    "patch": ("patch", "Apply, revert and verify the on-disk patches of a Python environment."),
    "say": ("say", "Speak text into a file, a pipe or the speakers."),
    "serve": ("serve", "Run the HTTP service in the foreground."),
    "voices": ("voices", "List, save, rename and remove a server's voices."),
}


class LazyGroup(click.Group):
    """A group that lists its subcommands from a table and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in SUBCOMMANDS:
            return None
        module = importlib.import_module(f".commands.{SUBCOMMANDS[cmd_name][0]}", __package__)
        command: click.Command = module.command
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """From the table too: a key press must not import everything."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=SUBCOMMANDS[name][1])
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUBCOMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qwen3-tts")
def group() -> None:
    """Qwen3-TTS on this machine: a speech server and the tools around it."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line. Our own errors become one line on standard error and exit status 1."""
    try:
        result: Any = group.main(args=argv, prog_name="qwen3-tts", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except TTSError as error:
        click.echo(f"qwen3-tts: {error.message}", err=True)
        sys.exit(1)
    sys.exit(result if isinstance(result, int) else 0)


if __name__ == "__main__":
    main()
