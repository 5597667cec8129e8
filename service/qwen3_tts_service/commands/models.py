"""``qwen3-tts models``: fetch weights from the hub, and say which are on this machine and whether they are complete."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from ..checkpoints.cached import cached
from ..checkpoints.verify import problems
from ..errors import CheckpointError, ConfigurationError


@click.group()
def command() -> None:
    """Fetch, list and verify model weights."""


def hub_token() -> str | None:
    """The token that systemd handed over as a credential, else the one in ``HF_TOKEN``, else none."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials and (file := Path(credentials) / "hub_token").exists():
        return file.read_text(encoding="utf-8").strip() or None
    return os.environ.get("HF_TOKEN") or None


def tellers(terminal: bool) -> tuple[Callable[[str], None], Callable[[str], None]]:
    """Who tells what happens, and how far it is: a terminal shows the latest of that, a journal keeps every line."""
    start, end = ("\r\x1b[K", "") if terminal else ("", "\n")

    def report(line: str) -> None:
        click.echo(start + line, color=terminal)

    def progress(line: str) -> None:
        click.echo(start + line + end, nl=False, color=terminal)

    return report, progress


@command.command()
@click.argument("repo")
@click.option(
    "--revision", default=None, help="Commit, tag or branch; the default branch's present commit without it."
)
@click.option("--cache", required=True, type=click.Path(path_type=Path), help="Hub cache directory.")
@click.option("--record", type=click.Path(path_type=Path), help="File to write commit, path and sizes to.")
@click.option(
    "--state", type=click.Path(path_type=Path), help="File to write to, once a second, how far it is."
)
@click.option(
    "--attempts", default=8, show_default=True, type=click.IntRange(1), help="Tries before giving up."
)
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def pull(
    repo: str,
    revision: str | None,
    cache: Path,
    record: Path | None,
    state: Path | None,
    attempts: int,
    as_json: bool,
) -> None:
    """Download REPO, resuming what an earlier try left, and verify it against the hub's hashes."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ConfigurationError(
            "HF_HUB_OFFLINE is set, and a download needs the network", param="HF_HUB_OFFLINE"
        )
    # Read once, when the library is imported: plain HTTP, and no bar that redraws itself into a journal.
    os.environ["HF_HUB_DISABLE_XET"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    from ..checkpoints import download
    from ..checkpoints.download_progress import Telling

    terminal = sys.stdout.isatty()
    report, progress = tellers(terminal)
    every_s = 1.0 if terminal else 5.0
    with Telling(repo, report=report, progress=progress, every_s=every_s, file=state) as telling:
        pulled = download.pull(repo, revision, cache, telling, token=hub_token(), attempts=attempts)
        if record is not None:
            download.write_record(record, pulled)
    if as_json:
        click.echo(json.dumps({"repo": pulled.repo, "revision": pulled.revision, "path": pulled.path}))
    else:
        click.echo(pulled.path)


@command.command(name="list")
@click.option("--cache", required=True, type=click.Path(path_type=Path), help="Hub cache directory.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_(cache: Path, as_json: bool) -> None:
    """What `pull` has put into a cache: repository, commit, size, directory, and whether it is complete."""
    found = cached(cache)
    if as_json:
        click.echo(json.dumps({"models": [checkpoint.described() for checkpoint in found]}))
        return
    for checkpoint in found:
        state = "; ".join(checkpoint.problems) or "complete"
        click.echo(f"{checkpoint.repo} at {checkpoint.revision}: {checkpoint.size / 2**20:.0f} MiB, {state}")
        click.echo(f"  {checkpoint.path}")


@command.command()
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option("--record", type=click.Path(path_type=Path), help="Verify what `pull --record` recorded.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(directory: Path | None, record: Path | None, as_json: bool) -> None:
    """Say whether a checkpoint is complete: its files open and have the recorded sizes. Needs no network."""
    if (directory is None) == (record is None):
        raise click.UsageError("give either a DIRECTORY or --record FILE")
    sizes = None
    if record is not None:
        from ..checkpoints.download import read_record

        pulled = read_record(record)
        directory, sizes = Path(pulled.path), pulled.files
    assert directory is not None
    found = problems(directory, sizes)
    if as_json:
        click.echo(json.dumps({"path": str(directory), "complete": not found, "problems": found}))
    if found:
        raise CheckpointError(f"{directory}: {'; '.join(found)}", param=str(directory))
    if not as_json:
        click.echo(f"{directory}: complete")
