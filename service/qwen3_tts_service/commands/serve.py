"""``qwen3-tts serve``: the HTTP service in the foreground."""

from __future__ import annotations

import logging
import os
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

import click

from .. import config, journal
from ..api import notify
from ..api.app import create_app
from ..api.auth import KeyRing
from ..api.server import Server, listen, on_termination
from ..errors import ConfigurationError
from ..lifecycle import Lifecycle, LoadedEngine, SelfCheck, Status

if TYPE_CHECKING:
    from ..config import Settings

logger = logging.getLogger(__name__)

#: Time for answers that are finished to reach their clients, in seconds.
_SEND_S = 5.0


@click.command(name="serve")
def command() -> NoReturn:
    """Run the HTTP service in the foreground.

    Settings come from QWEN3_TTS_<NAME> in the environment and from the TOML file that QWEN3_TTS_CONFIG names.
    It listens before it loads: /ready tells how far it is. SIGTERM finishes accepted requests and leaves.
    """
    settings = config.load()
    journal.configure(settings.log_level)
    keys = KeyRing.read(_key_file(settings))
    _refuse_strangers(settings, keys)
    status = _serve(settings, keys)
    # A thread may still be inside torch (loading, or a request beyond the drain limit): it can be neither
    # stopped nor waited for, and an interpreter that is torn down under it crashes.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)


def _serve(settings: Settings, keys: KeyRing) -> int:
    going_down = threading.Event()
    broken = threading.Event()
    extension = notify.StartExtension()

    def announce(status: Status) -> None:
        notify.send(f"STATUS={status.state}: {status.reason}")
        if status.state == "ready":
            extension.stop()
            notify.send("READY=1")
        elif status.state == "broken":
            extension.stop()
            broken.set()
            going_down.set()

    lifecycle = Lifecycle(
        load=partial(_load, settings),
        check=partial(_check, settings),
        queue_size=settings.queue_size,
        on_change=announce,
    )
    listener = listen(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    server = Server(
        create_app(lifecycle, settings, keys),
        listener,
        queue_size=settings.queue_size,
        max_body_bytes=settings.max_body_bytes,
    )

    def come_down() -> None:
        going_down.wait()
        send_s = _SEND_S
        if not broken.is_set():
            notify.send("STOPPING=1")
            logger.info("going down: accepted requests are finished within %.0f s", settings.drain_timeout_s)
            if not lifecycle.drain(settings.drain_timeout_s):
                logger.warning("the drain limit is over: unfinished requests are lost")
                send_s = 1.0
        server.stop(send_s)

    on_termination(going_down)
    threading.Thread(target=come_down, name="drain", daemon=True).start()
    logger.info(
        "listening on http://%s:%d, %d API keys",
        f"[{host}]" if ":" in host else host,
        port,
        len(keys.digests),
    )
    extension.start()
    lifecycle.start()
    server.run()
    return 1 if broken.is_set() else 0


def _key_file(settings: Settings) -> Path | None:
    """The setting, else the systemd credential when the unit has one."""
    if settings.api_keys_file is not None:
        return settings.api_keys_file
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    credential = Path(directory) / "api_keys" if directory else None
    return credential if credential and credential.is_file() else None


def _refuse_strangers(settings: Settings, keys: KeyRing) -> None:
    if settings.is_loopback or keys.digests or settings.allow_unauthenticated:
        return
    raise ConfigurationError(
        f"{settings.host} is reachable from other machines and there are no API keys: name a key file in "
        "QWEN3_TTS_API_KEYS_FILE, listen on 127.0.0.1, or set QWEN3_TTS_ALLOW_UNAUTHENTICATED=true",
        param="host",
    )


def _load(settings: Settings) -> LoadedEngine:
    # torch takes seconds to import: on the loader's thread, while the server already answers.
    from ..engine.reference import ReferenceEngine

    engine = ReferenceEngine.load(
        settings.model,
        device=settings.device,
        dtype=settings.dtype,
        codec_device=settings.codec_device,
        cpu_threads=settings.cpu_threads,
    )
    return cast("LoadedEngine", engine)


def _check(settings: Settings, engine: LoadedEngine) -> SelfCheck:
    from ..engine import selfcheck
    from ..engine.reference import ReferenceEngine

    # The CPU is what others are compared with.
    if settings.self_check == "off" or not str(engine.device).startswith("cuda"):
        return SelfCheck()
    report = selfcheck.check(cast("ReferenceEngine", engine).model)
    return SelfCheck("passed", report.max_error, report.tolerance)
