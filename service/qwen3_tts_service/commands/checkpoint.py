"""``qwen3-tts checkpoint``: write checkpoints that need no download."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ..checkpoints.geometry import GEOMETRIES, MODEL_TYPES, Geometry, ModelType


@click.group(help="Write synthetic checkpoints: random weights, real geometry.")
def command() -> None:
    """The group ``qwen3-tts checkpoint``."""


@command.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--geometry", type=click.Choice(GEOMETRIES), default="tiny", show_default=True)
@click.option(
    "--type", "model_type", type=click.Choice(MODEL_TYPES), default="custom_voice", show_default=True
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def synthetic(directory: Path, geometry: Geometry, model_type: ModelType, seed: int) -> None:
    """Write a random-weight checkpoint into DIRECTORY, which must be empty or absent.

    It has the layout, the architecture and the speed of a published one and speaks noise: it is for tests,
    demonstrations and benchmarks. The same seed gives the same bytes.
    """
    from ..checkpoints.synthetic import write

    started = time.monotonic()
    write(directory, geometry=geometry, model_type=model_type, seed=seed)
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    click.echo(
        f"{directory}: synthetic {geometry} {model_type}, seed {seed}, {size / 2**20:.0f} MiB "
        f"in {time.monotonic() - started:.1f} s. Random weights: it speaks noise."
    )
