"""``qwen3-tts drain``: a server that goes on serving, while its balancer sends new requests elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import click

from ..api.signals import RESTORE, WITHDRAW
from ..errors import Unavailable


@click.command(name="drain")
@click.option("--end", is_flag=True, help="Bring it back into rotation.")
@click.option("--unit", default="qwen3-tts", show_default=True, help="Its systemd unit.")
@click.option("--pid", type=click.IntRange(min=2), help="Its process, where no unit runs it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(end: bool, unit: str, pid: int | None, as_json: bool) -> int:
    """Take a running server out of rotation, or bring it back with --end.

    /ready answers 503 from then on, so that a balancer sends nothing more; what comes anyway is served, and the
    process stays. A restart forgets it. Needs the rights to signal the process.
    """
    number = RESTORE if end else WITHDRAW
    process = pid or _main_process(unit)
    # A process that has no use for the signal would be ended by it.
    if not _catches(process, number):
        raise Unavailable(f"process {process} is no qwen3-tts server that has started", retry_after_s=5.0)
    try:
        os.kill(process, number)
    except OSError as error:
        raise Unavailable(
            f"process {process} cannot be signalled: {error.strerror}", retry_after_s=5.0
        ) from error
    if as_json:
        click.echo(json.dumps({"process": process, "in_rotation": end}))
    else:
        click.echo(
            f"process {process} is " + ("back in rotation" if end else "out of rotation and goes on serving")
        )
    return 0


def _main_process(unit: str) -> int:
    shown = subprocess.run(
        ["systemctl", "show", "--property", "MainPID", "--value", "--", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    process = int(shown.stdout.strip()) if shown.stdout.strip().isdecimal() else 0
    if not process:
        said = shown.stderr.strip() or "it does not run"
        raise Unavailable(f"unit {unit} has no process: {said}; or name one with --pid", retry_after_s=5.0)
    return process


def _catches(process: int, number: int) -> bool:
    """Whether the process has a handler for the signal (SigCgt in proc_pid_status(5))."""
    try:
        lines = (Path("/proc") / str(process) / "status").read_text().splitlines()
    except OSError:
        return False
    mask = next((line.split()[1] for line in lines if line.startswith("SigCgt:")), "0")
    return bool(int(mask, 16) >> (number - 1) & 1)
