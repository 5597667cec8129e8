"""``qwen3-tts serve``: the HTTP service in the foreground."""

from __future__ import annotations

import logging
import os
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from .. import config, journal
from ..api import notify
from ..api.app import create_app
from ..api.auth import KeyRing
from ..api.server import Server, listen, on_termination
from ..engine.device_faults import record_fault
from ..engine_process.loading import most_slots
from ..engine_process.parent import EngineProcess
from ..errors import ConfigurationError
from ..lifecycle import Lifecycle, ModelSource, Status

if TYPE_CHECKING:
    from ..config import Settings

logger = logging.getLogger(__name__)

#: Time for answers that are finished to reach their clients, in seconds; less when the device is lost.
_SEND_S = 5.0
_SEND_AFTER_FAULT_S = 1.0
#: Exit status after a second device fault within ten minutes: the unit does not start it again
#: (RestartPreventExitStatus), because a third time would end like the first two.
EXIT_FAULTY_DEVICE = 86


@click.command(name="serve")
def command() -> NoReturn:
    """Run the HTTP service in the foreground.

    Settings come from QWEN3_TTS_<NAME> in the environment and from the TOML file that QWEN3_TTS_CONFIG names.
    It listens before it loads: /ready tells how far it is. SIGTERM finishes accepted requests and leaves.

    Exit status 1 when it cannot serve, 86 when the device was lost twice within ten minutes.
    """
    settings = config.load()
    journal.configure(settings.log_level)
    keys = KeyRing.read(_key_file(settings))
    _refuse_strangers(settings, keys)
    engine = EngineProcess(settings)
    status = _serve(settings, keys, engine)
    engine.stop()
    # A thread may still wait for a request beyond the drain limit, or for a client that does not read.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)


def _serve(settings: Settings, keys: KeyRing, engine: EngineProcess) -> int:
    going_down = threading.Event()
    broken: list[Status] = []
    extension = notify.StartExtension()

    def announce(status: Status) -> None:
        notify.send(f"STATUS={status.state}: {status.reason}")
        if status.state == "ready":
            extension.stop()
            notify.send("READY=1")
        elif status.state == "broken":
            extension.stop()
            broken.append(status)
            going_down.set()

    lifecycle = Lifecycle(
        [
            ModelSource(
                name, partial(engine.load, path), at_start=not number or settings.load_models == "start"
            )
            for number, (name, path) in enumerate(settings.models)
        ],
        queue_size=settings.queue_size,
        on_change=announce,
        keepalive_s=settings.keepalive_s,
        unload_after_s=settings.unload_after_s,
    )
    listener = listen(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    server = Server(
        create_app(lifecycle, settings, keys),
        listener,
        requests=len(settings.models) * (most_slots(settings) + settings.queue_size),
        max_body_bytes=settings.max_body_bytes,
        reader_timeout_s=settings.reader_timeout_s,
        on_round=notify.Watchdog().beat,
    )

    def come_down() -> None:
        going_down.wait()
        send_s = _SEND_S
        if broken:
            send_s = _SEND_AFTER_FAULT_S if broken[0].fault else _SEND_S
        else:
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
    return _exit_status(broken[0]) if broken else 0


def _exit_status(broken: Status) -> int:
    """1, for systemd to start the process again; 86 when the device was lost too often for that."""
    directory = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if not broken.fault or not directory:
        return 1
    faults = record_fault(Path(directory) / "device-faults.json", broken.reason)
    if len(faults) < 2:
        return 1
    cause = f"the device was lost {len(faults)} times within ten minutes, the last time: {broken.reason}"
    logger.critical("%s; not starting again. Look at the kernel log, then start the unit by hand", cause)
    notify.send(f"STATUS=stopped: {cause}")
    return EXIT_FAULTY_DEVICE


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
