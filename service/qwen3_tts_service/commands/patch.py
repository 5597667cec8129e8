"""``qwen3-tts patch``: the patcher's own command line under the common name."""

from __future__ import annotations

import click

from ..sitepatches.command import main


@click.command(
    context_settings={
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
        "help_option_names": [],
    }
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> int:
    """Apply, revert and verify the on-disk patches of a Python environment.

    `qwen3-tts patch --help` tells how.
    """
    return main(arguments, program="qwen3-tts patch")
