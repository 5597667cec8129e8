"""``qwen3-tts compile``: what the first start would have to compile, done when a release is staged."""

from __future__ import annotations

import logging
import os
import sys
import time
from functools import partial

import click

from .. import config, journal
from ..admission import Limits
from ..engine_process.loading import EngineLoader
from ..served_model import ServedModel
from ..weights import Weights


@click.command(name="compile")
def command() -> None:
    """Compile what `serve` with the same settings needs, so that it starts without waiting for that.

    Loads every model of the settings, speaks one sentence and leaves. Exit status 0 also where a slower way is
    taken, which it says with the reason; 1 when a model or the settings are of no use.
    """
    settings = config.load()
    journal.configure(settings.log_level)
    if settings.engine == "reference":
        click.echo("engine: reference has nothing to compile")
        return
    loader = EngineLoader(settings)
    for name, path in settings.models:
        began = time.monotonic()
        load = partial(loader.load, Weights(path).directory())
        model = ServedModel(name, load=load, limits=Limits(queue_size=0, streams=1))
        model.come_up()
        reasons = model.reasons()
        for batch, way in sorted(model.ways().items()):
            click.echo(f"{name}: frames of {batch}: {_told(way, reasons.get(batch, ''))}")
        click.echo(f"{name}: codec: {_told(model.codec_way, model.codec_reason)}")
        click.echo(f"{name}: {time.monotonic() - began:.1f} s")
        model.close()
    # As in `serve`: an interpreter that is torn down under torch's threads crashes.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


def _told(way: str, reason: str) -> str:
    return f"{way} ({reason})" if reason else way
