"""The demo without a host, for machines that may not create namespaces.

The same runtime, the same patches and the same service, under this command instead of under systemd.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from rig import paths

from . import speech
from .steps import DemoError, Steps, note

#: The frames are compiled first: minutes on a busy machine, as systemd grants them to the unit.
LOADING_S = 900
STOPPING_S = 70


def directory() -> Path:
    return paths.cache() / "demo" / paths.checkout_name("local")


def run() -> None:
    """Runtime, patches, checkpoint, service, curl; nothing keeps running."""
    place = directory()
    place.mkdir(parents=True, exist_ok=True)
    steps = Steps("From a bare checkout to speech, without a host. The weights are random: expect noise.")
    python = place / "venv" / "bin" / "python"
    with steps.step("CPU runtime from the hash lock, patched"):
        venv = paths.CHECKOUT / "tools" / "venv.py"
        quietly([sys.executable, str(venv), str(place / "venv"), "--runtime", "cpu"])
    with steps.step("Look at the patches"):
        drift = quietly(
            [str(python), "-m", "qwen3_tts_service.sitepatches", "status", "--python", str(python)]
        )
    for line in drift.splitlines():
        note(line)
    checkpoint = place / "checkpoint"
    with steps.step("Checkpoint of random weights"):
        shutil.rmtree(checkpoint, ignore_errors=True)
        options = ("--geometry", "tiny", "--type", "custom_voice", "--seed", "1")
        quietly(
            [str(python), "-m", "qwen3_tts_service.cli", "checkpoint", "synthetic", str(checkpoint), *options]
        )
    output = place / "speech.wav"
    base = f"http://127.0.0.1:{free_port()}"
    started = time.monotonic()
    with serving(python, checkpoint, base, place / "service.log") as service:
        with steps.step("Start the service and wait until it has spoken"):
            wait_until_ready(base, service, started, place / "service.log")
        note(f"pid {service.pid}, log {place / 'service.log'}")
        command = speech.curl_command(base, None, speech.first_voice(base, None), output)
        with steps.step("curl"):
            measured = speech.fetch(command, output)
        status = subprocess.run(
            ["ps", "-o", "pid,etime,rss,args", "-p", str(service.pid)],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        with steps.step("Stop the service"):
            stop(service)
    print(f"\n{status}\n$ {command}\n\n{speech.report(measured)}")
    steps.finished()
    print(f"\nThe service has ended with this command. To keep one: {serve_line(python, checkpoint)}")
    print("Then open http://127.0.0.1:8100/ in a browser.")


def environment() -> dict[str, str]:
    """Ours with the checkout's package on the path; no setting of the caller's may change the demo."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("QWEN3_TTS_")}
    cache = os.environ.get("QWEN3_TTS_CACHE")
    kept = {"QWEN3_TTS_CACHE": cache} if cache else {}
    return {**ours, **kept, "PYTHONPATH": str(paths.CHECKOUT / "service"), "HF_HUB_OFFLINE": "1"}


def quietly(command: list[str]) -> str:
    """Run a command; its output is shown only when it fails."""
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def serve_line(python: Path, checkpoint: Path) -> str:
    package = paths.CHECKOUT / "service"
    return f"PYTHONPATH={package} QWEN3_TTS_MODEL={checkpoint} {python} -m qwen3_tts_service.cli serve"


@contextlib.contextmanager
def serving(python: Path, checkpoint: Path, base: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The service in a child process, which never outlives this block."""
    settings = {"QWEN3_TTS_MODEL": str(checkpoint), "QWEN3_TTS_PORT": base.rpartition(":")[2]}
    with log.open("wb") as written:
        service = subprocess.Popen(
            [str(python), "-m", "qwen3_tts_service.cli", "serve"],
            env={**environment(), **settings},
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    try:
        yield service
    finally:
        if service.poll() is None:
            service.kill()
            service.wait()


def wait_until_ready(base: str, service: subprocess.Popen[bytes], started: float, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        with contextlib.suppress(OSError), opener.open(f"{base}/ready", timeout=5) as answer:
            if json.load(answer)["status"] == "ready":
                return
        if service.poll() is not None or time.monotonic() - started > LOADING_S:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
            raise DemoError(f"the service did not get ready ({log}):\n{tail}")
        time.sleep(0.2)


def stop(service: subprocess.Popen[bytes]) -> None:
    """SIGTERM, as systemd would; an ordinary end is part of the demo."""
    service.terminate()
    try:
        status = service.wait(STOPPING_S)
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"the service did not end within {STOPPING_S} s of SIGTERM") from error
    if status:
        raise DemoError(f"the service ended with {status}")
