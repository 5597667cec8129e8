"""``qwen3-tts bench``: measure a checkpoint on this host."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..bench import plot
from ..bench.plan import BATCHES, SENTENCE_FRAMES, Plan
from ..bench.report import as_text

if TYPE_CHECKING:
    from ..bench.report import Report

#: What can be measured -> the module under ``bench/`` that does it.
_SUITES = {
    "engine": "engine_suite",
    "codec": "codec_suite",
    "serve": "serve_suite",
    "overload": "overload",
    "rate": "request_rate",
}


def _one_of(suite: str | None, placement: bool, original: bool, soak: float | None) -> str:
    """The module to run. Raises UsageError unless exactly one measurement was asked for."""
    asked = [
        *([_SUITES[suite]] if suite else []),
        *(["placement"] if placement else []),
        *(["original"] if original else []),
        *(["soak"] if soak is not None else []),
    ]
    if len(asked) != 1:
        raise click.UsageError("name one of --suite, --placement, --original and --soak")
    return asked[0]


@click.command(name="bench")
@click.argument("checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--suite",
    type=click.Choice(tuple(_SUITES)),
    help="engine: frames; codec: decoding; serve: the HTTP service with streaming clients; overload: the HTTP service "
    "with 64 clients that ask for twice of what it can; rate: how many requests a second it serves without delay.",
)
@click.option(
    "--placement",
    is_flag=True,
    help="Try placements and precisions (of the frames: where --dtype is auto); say which settings to use.",
)
@click.option("--original", is_flag=True, help="A 9 s sentence: upstream, the original recipe, this service.")
@click.option(
    "--soak", type=click.FloatRange(0, min_open=True), metavar="MINUTES", help="Loop requests; watch memory."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--dtype", type=click.Choice(["auto", "bf16", "fp32"]), default="auto", show_default=True)
@click.option(
    "--weights",
    type=click.Choice(["bf16", "int8"]),
    default="bf16",
    show_default=True,
    help="int8: the engine suite measures speed and errors of rounded matrices beside the checkpoint's.",
)
@click.option("--codec-device", type=click.Choice(["cpu", "gpu"]), default="cpu", show_default=True)
@click.option(
    "--codec-dtype",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Of the service that the serve, overload and rate suites start.",
)
@click.option("--cpu-threads", type=click.IntRange(0), default=0, show_default="torch's choice")
@click.option(
    "--fastest-way",
    type=click.Choice(["auto", "compiled", "eager"]),
    default="auto",
    show_default=True,
    help="How --placement, --original and --soak may compute at best; eager compiles nothing.",
)
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(1),
    multiple=True,
    default=BATCHES,
    show_default=True,
    help="Streams at once; repeat the option.",
)
@click.option(
    "--frames", type=click.IntRange(4), default=SENTENCE_FRAMES, show_default=True, help="Timed frames."
)
@click.option(
    "--repeats", type=click.IntRange(1), default=3, show_default=True, help="Rounds of whole decodes."
)
@click.option(
    "--positions",
    type=click.IntRange(64),
    default=1000,
    show_default=True,
    help="Positions in use at the last timed frame.",
)
@click.option(
    "--slot-positions", type=click.IntRange(128), default=2048, show_default=True, help="Positions of a slot."
)
@click.option(
    "--clients",
    type=click.IntRange(1),
    multiple=True,
    default=(1, 8),
    show_default=True,
    help="HTTP clients at once; repeat the option.",
)
@click.option(
    "--overload-seconds",
    "overload_s",
    type=click.FloatRange(5),
    default=300.0,
    show_default=True,
    help="How long the overload suite asks for too much.",
)
@click.option(
    "--rate-seconds",
    "rate_s",
    type=click.FloatRange(5),
    default=15.0,
    show_default=True,
    help="How long the rate suite asks at each rate.",
)
@click.option(
    "--upstream/--no-upstream", default=True, show_default=True, help="Run upstream's code beside ours."
)
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures."
)
@click.option(
    "--plot", "plot_file", type=click.Path(dir_okay=False, path_type=Path), help="Draw; needs matplotlib."
)
def command(
    checkpoint: Path,
    suite: str | None,
    placement: bool,
    original: bool,
    soak: float | None,
    json_file: Path | None,
    plot_file: Path | None,
    **chosen: Any,
) -> None:
    """Measure CHECKPOINT on this host.

    Figures are medians with the 5th and 95th percentile. Upstream's own code runs in the same process on the
    same weights, and the floor is computed from the geometry and from rates measured in the same run.
    """
    module = _one_of(suite, placement, original, soak)
    if plot_file:
        # Before minutes of measuring, not after them.
        plot.require()
    if soak is not None:
        chosen["soak_minutes"] = soak
    plan = Plan(checkpoint, **chosen, say=lambda line: click.echo(line, err=True))
    measurement = importlib.import_module(f"..bench.{module}", __package__)
    report: Report = measurement.run(plan)
    click.echo(as_text(report, terminal=sys.stdout.isatty()))
    if json_file:
        report.write_json(json_file)
    if plot_file:
        plot.draw(report, plot_file)
