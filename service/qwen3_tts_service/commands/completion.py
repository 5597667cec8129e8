"""``qwen3-tts completion``: what a shell needs to complete our commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(name="completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    bash: eval "$(qwen3-tts completion bash)"        in ~/.bashrc
    zsh:  eval "$(qwen3-tts completion zsh)"         in ~/.zshrc
    fish: qwen3-tts completion fish > ~/.config/fish/completions/qwen3-tts.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "qwen3-tts", "_QWEN3_TTS_COMPLETE").source())
