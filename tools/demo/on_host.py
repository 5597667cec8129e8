"""The demo on a throw-away host: image, wheels, boot, ``ansible-playbook playbooks/site.yml``, curl."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import time
from pathlib import Path

from rig import capabilities, host, image, paths
from rig.errors import RigError
from rig.record import Host

from . import speech
from .steps import DemoError, Steps, note

NAME = "demo"
SUITE = "bookworm"
HOST_PYTHON = "3.11"
HERE = Path(__file__).resolve().parent
PLAYBOOK = paths.CHECKOUT / "playbooks" / "site.yml"
ANSIBLE = paths.CHECKOUT / ".venv-ansible" / "bin" / "ansible-playbook"
TASK = re.compile(r"^TASK \[(?:(?P<role>\w+) : )?(?P<task>.*)\]")


def directory() -> Path:
    """Where this checkout's demo keeps its inventory, its log and the sound."""
    return paths.cache() / "demo" / paths.checkout_name(NAME)


def up() -> None:
    """Do the whole main job and leave the host running."""
    steps = Steps("From a bare Debian to speech. The weights are random, so what you will hear is noise.")
    try:
        with steps.step("Ask what this machine can do"):
            capabilities.require()
    except RigError as error:
        raise DemoError(f"{error}\n\n`make demo-local` does the same job without a test host.") from error
    with steps.step("Debian 12 image"):
        image.ensure(SUITE)
    with steps.step("Wheels of the CPU runtime, by hash"):
        fill_wheel_cache()
    with steps.step("Boot a throw-away host"):
        booted = host.up(NAME, SUITE, binds=((str(paths.wheels()), "/srv/wheelhouse"),))
    key = write_inventory(booted)
    with steps.step("ansible-playbook playbooks/site.yml"):
        roles = roll_out()
    for role, seconds in roles:
        note(f"{role:<16} {seconds:5.1f} s")
    show(booted, key, steps)


def fill_wheel_cache() -> None:
    """Put what the lock names for the host's Python into the cache; a full cache only compares hashes.

    Raises:
        DemoError: a wheel is nowhere to be had; the message names the ways out.
    """
    tool = paths.CHECKOUT / "tools" / "wheels.py"
    command = [sys.executable, str(tool), "--runtime", "cpu", "--python", HOST_PYTHON]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def write_inventory(booted: Host) -> str:
    """The rig's inventory with the demo's API key in it; returns the key, which a living host keeps."""
    file = directory() / "inventory" / "connection.yml"
    key_file = booted.directory / "api_key"
    if not key_file.exists():
        key_file.write_text(secrets.token_urlsafe(18))
        key_file.chmod(0o600)
    key = key_file.read_text()
    inventory = json.loads(host.inventory(booted))
    inventory["all"]["hosts"][NAME]["tts_service_api_keys"] = [{"name": "demo", "key": key}]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(json.dumps(inventory, indent=2))
    return key


def roll_out() -> list[tuple[str, float]]:
    """Run the playbook; returns each role with the seconds it took. The whole output goes to a log.

    Raises:
        DemoError: the playbook failed; the message carries the end of its output.
    """
    log = directory() / "ansible.log"
    command = [
        str(ANSIBLE),
        f"--inventory={HERE / 'inventory' / 'hosts.yml'}",
        f"--inventory={directory() / 'inventory' / 'connection.yml'}",
        str(PLAYBOOK),
    ]
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(paths.CHECKOUT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
    }
    roles: dict[str, float] = {}
    current, since = "facts", time.monotonic()
    tail: list[str] = []
    with (
        log.open("w") as written,
        subprocess.Popen(
            command,
            cwd=paths.CHECKOUT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as run,
    ):
        for line in run.stdout or ():
            written.write(line)
            tail = [*tail[-60:], line]
            found = TASK.match(line)
            if found:
                now = time.monotonic()
                roles[current] = roles.get(current, 0.0) + now - since
                current, since = found["role"] or "facts", now
        roles[current] = roles.get(current, 0.0) + time.monotonic() - since
    if run.returncode:
        raise DemoError(f"the playbook failed ({log}):\n{''.join(tail)}")
    return list(roles.items())


def show(booted: Host, key: str, steps: Steps) -> None:
    """Fetch speech from outside the host, then print what a person wants to see at the end."""
    running = booted.running()
    if running is None:
        raise DemoError("the host is gone")
    base = f"http://{running.address}:8100"
    output = directory() / "speech.wav"
    command = speech.curl_command(base, key, speech.first_voice(base, key), output)
    with steps.step("curl, from this machine"):
        measured = speech.fetch(command, output)
    status = host.ssh(booted, "systemctl", "status", "--no-pager", "--lines=4", "qwen3-tts").stdout
    print(f"\n$ ssh -F {booted.ssh_config} {NAME} systemctl status qwen3-tts\n{status}")
    print(f"$ {command}\n")
    print(speech.report(measured))
    steps.finished()
    print(f"\nIn a browser on this machine: {base}/ (it asks for the API key, which is {key})")
    print("The host stays up; that curl line works from your shell. `make demo-down` removes it.")


def down() -> None:
    """Remove the host and everything that the demo wrote, except the caches."""
    existed = host.down(NAME)
    if directory().exists():
        image.remove_tree(directory())
    print("the demo host is gone" if existed else "there was no demo host")
