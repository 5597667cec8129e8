"""The host under test, seen from the build machine: over ssh as its operator, over HTTP as its users."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]
UNIT = "qwen3-tts.service"
#: Longest wait for one command, request or play, in seconds: far beyond what a slow and busy machine needs, so
#: that only what hangs runs into it. Nothing waits longer than its cause.
LONGEST_S = 900


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict:
        return json.loads(self.body)


@dataclass(frozen=True)
class Host:
    """Commands on the host, as root over ssh."""

    name: str
    ssh_config: str

    def run(self, command: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        line = ["ssh", "-F", self.ssh_config, self.name, command]
        done = subprocess.run(
            line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LONGEST_S, check=False
        )
        assert not check or done.returncode == 0, (
            f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def properties(self, *names: str) -> dict[str, str]:
        """The unit's properties as systemd has them in force."""
        shown = self.run(f"systemctl show {UNIT} {' '.join(f'-p {name}' for name in names)}").stdout
        return dict(line.split("=", 1) for line in shown.splitlines())


@dataclass(frozen=True)
class Service:
    """Requests to the service over the host's address; never through a proxy."""

    base: str
    key: str
    opener: urllib.request.OpenerDirector = field(
        default_factory=lambda: urllib.request.build_opener(urllib.request.ProxyHandler({}))
    )

    def request(
        self,
        path: str,
        body: object = None,
        *,
        key: str | None = "",
        content_type: str = "application/json",
    ) -> Answer:
        """GET, or POST when there is a body; ``key=""`` sends the right key, ``None`` sends none."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type} if data is not None else {}
        if key is not None:
            headers["Authorization"] = f"Bearer {key or self.key}"
        request = urllib.request.Request(self.base + path, data=data, headers=headers)
        try:
            with self.opener.open(request, timeout=LONGEST_S) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read())

    def speak(self, text: str = "One sentence from outside.", **fields: object) -> Answer:
        """A WAV unless ``fields`` say otherwise."""
        body = {"input": text, "voice": self.voice(), "response_format": "wav", **fields}
        return self.request("/v1/audio/speech", body)

    def voice(self) -> str:
        return self.request("/v1/audio/voices").json()["voices"][0]["id"]


@pytest.fixture(scope="session")
def host() -> Host:
    return Host(os.environ["RIG_HOST"], os.environ["RIG_SSH_CONFIG"])


@pytest.fixture(scope="session")
def service() -> Service:
    return Service(f"http://{os.environ['RIG_ADDRESS']}:8100", os.environ["RIG_API_KEY"])


@pytest.fixture(scope="session")
def playbook() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a playbook against the host, with the inventory that molecule converged with."""
    inventories = [f"--inventory={one}" for one in os.environ["RIG_INVENTORIES"].split(":")]

    def run(name: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [str(CHECKOUT / ".venv-ansible/bin/ansible-playbook"), *inventories, *options]
        return subprocess.run(
            [*command, str(CHECKOUT / "playbooks" / name)],
            cwd=CHECKOUT,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            check=False,
        )

    return run
