"""``qwen3-tts serve``: the HTTP service in the foreground."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from .. import config, journal, start_time
from ..admission import Limits
from ..api import notify
from ..api.app import create_app
from ..api.auth import KeyRing
from ..api.listener import inherited, listen
from ..api.server import Server
from ..api.signals import RELOAD, RESTORE, WITHDRAW, on_orders, on_termination
from ..engine.device_faults import record_fault
from ..engine_process.loading import most_slots
from ..engine_process.parent import EngineProcess
from ..errors import CheckpointError, ConfigurationError, DeviceFault
from ..lifecycle import Lifecycle, ModelSource, Status
from ..loaded_engine import Kind, Loaded
from ..voices.store import VoiceStore
from ..weights import Weights

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
    It listens before it loads: /ready tells how far it is. Where `model` names the record of a download that is not
    complete, it waits for that and then loads. SIGTERM finishes accepted requests and leaves. Where
    systemd holds the socket (LISTEN_FDS), connections wait while the process is not ready, and on its way down for
    the next one. SIGHUP reads the API keys again; SIGUSR1 and SIGUSR2 are what `qwen3-tts drain` sends.

    Exit status 1 when it cannot serve, 86 when the device was lost twice within ten minutes.
    """
    settings = config.load()
    journal.configure(settings.log_level)
    keys = KeyRing.read(partial(key_file, settings))
    passed = inherited()
    listener = passed or listen(settings.host, settings.port)
    _refuse_strangers(listener, settings, keys)
    engine = EngineProcess(settings)
    status = _serve(settings, keys, engine, listener, hand_over=passed is not None)
    engine.stop()
    # A thread may still wait for a request beyond the drain limit, or for a client that does not read.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)


def _serve(
    settings: Settings, keys: KeyRing, engine: EngineProcess, listener: socket.socket, *, hand_over: bool
) -> int:
    """``hand_over``: somebody else holds the listening socket as well, for the process that comes next."""
    going_down = threading.Event()
    broken: list[Status] = []
    extension = notify.StartExtension()

    def announce(status: Status) -> None:
        notify.send(f"STATUS={status.state}: {status.reason}")
        if hand_over:
            # From one process to the next connections wait; nobody is told to come back later. But there is no telling
            # when weights will have come, and whoever looks on is not cut off when they have.
            up = ("ready", "loading", "warming") if lifecycle.waited_for_weights else ("ready",)
            server.accept(status.missing is not None or lifecycle.status.state in up)
        if status.state == "ready" or status.missing is not None:
            # Started is also what waits for weights: a job of hours would hold up the whole boot.
            extension.stop()
            notify.send("READY=1")
        if status.state == "ready" and lifecycle.came_up_in_s is not None:
            start_time.keep(lifecycle.came_up_in_s)
        if status.state == "broken":
            extension.stop()
            broken.append(status)
            going_down.set()

    lifecycle = Lifecycle(
        [_source(settings, engine, number) for number in range(len(settings.models))],
        limits=Limits(
            settings.queue_size, settings.max_queue_wait_s, settings.streams_per_key, settings.max_streams
        ),
        on_change=announce,
        keepalive_s=settings.keepalive_s,
        unload_after_s=settings.unload_after_s,
        usual_s=start_time.usual_s(),
    )
    voices = VoiceStore(
        settings.voices_path,
        most_voices=settings.max_voices,
        most_bytes=settings.max_body_bytes,
        on_removed=engine.forget,
    )
    host, port = listener.getsockname()[:2]
    server = Server(
        create_app(lifecycle, settings, keys, voices),
        listener,
        requests=len(settings.models) * (most_slots(settings) + settings.queue_size),
        max_body_bytes=settings.max_body_bytes,
        reader_timeout_s=settings.reader_timeout_s,
        opens=lambda header: settings.loopback_without_key or keys.opens(header),
        on_round=notify.Watchdog().beat,
    )
    server.accept(not hand_over)

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
    on_orders({RELOAD: keys.reload, WITHDRAW: lifecycle.withdraw, RESTORE: lifecycle.restore})
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


def _source(settings: Settings, engine: EngineProcess, number: int) -> ModelSource:
    name, path = settings.models[number]
    weights = Weights(path, None if number else settings.download_state)

    def load(on_fault: Callable[[DeviceFault], None]) -> Loaded:
        return engine.load(weights.directory(), on_fault)

    at_start = not number or settings.load_models == "start"
    return ModelSource(name, load, at_start=at_start, kind=_kind(weights), weights=weights)


def _kind(weights: Weights) -> Kind | None:
    """What a checkpoint is for, so that requests find one that is loaded on first use. None: its loader says why."""
    try:
        config = json.loads((weights.directory() / "config.json").read_text(encoding="utf-8"))
        return Kind(
            model_type=str(config["tts_model_type"]),
            model_size=str(config.get("tts_model_size")),
            speakers=tuple(config["talker_config"].get("spk_id") or ()),
        )
    except (CheckpointError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


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


def key_file(settings: Settings) -> Path | None:
    """The setting, else what a reload has put beside the unit's credential, else the credential, if there is one.

    systemd reads a credential once, when it starts the unit.
    """
    if settings.api_keys_file is not None:
        return settings.api_keys_file
    directories = [os.environ.get(name) for name in ("RUNTIME_DIRECTORY", "CREDENTIALS_DIRECTORY")]
    files = [Path(directory) / "api_keys" for directory in directories if directory]
    return next(filter(Path.is_file, files), None)


def _refuse_strangers(listener: socket.socket, settings: Settings, keys: KeyRing) -> None:
    host = listener.getsockname()[0]
    if keys.digests or settings.allow_unauthenticated or ipaddress.ip_address(host).is_loopback:
        return
    raise ConfigurationError(
        f"{host} is reachable from other machines and there are no API keys: name a key file in "
        "QWEN3_TTS_API_KEYS_FILE, listen on 127.0.0.1, or set QWEN3_TTS_ALLOW_UNAUTHENTICATED=true",
        param="host",
    )
