"""The second instance: its name, its keys, and the play that makes it."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from conftest import CHECKOUT, LONGEST_S, Host, Service

UNIT = "qwen3-tts@second.service"
PORT = 8101
KEY = "second-0123456789abcdef"
REPO = "Someone/Qwen3-TTS-Tiny"
TOKEN = "hf_only-the-download-may-read-this"
HUB_PORT = 8199
#: Beside main on a small machine: two threads of each would wait for each other at every barrier. And it compiles
#: nothing: what is tested with it is started a dozen times, and main shows what compiling does. A precision that is
#: settled halves what is measured.
SETTINGS: dict[str, object] = {"cpu_threads": 1, "fastest_way": "eager", "dtype": "fp32"}

Result = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Second:
    """Plays for the second instance on the host under test, and what it answers."""

    host: Host
    inventories: list[str]
    release: str  # path of the release that main runs
    scratch: Path  # on the build machine

    def command(self, playbook: str, changes: dict[str, object], *options: str) -> list[str]:
        variables = {
            "tts_service_instance": "second",
            "tts_service_port": PORT,
            "tts_service_host": "0.0.0.0",
            "tts_service_api_keys": [{"name": "second", "key": KEY}],
            "tts_service_settings": SETTINGS,
            "tts_service_placement": "measure",
            "tts_runtime_release_path": self.release,
            "tts_models_source": "hub",
            "tts_models_repository": REPO,
            "tts_models_endpoint": f"http://127.0.0.1:{HUB_PORT}",
            "tts_models_token": TOKEN,
            # The hub pauses on purpose, and a busy machine adds to it: only the cut connection may end a try.
            "tts_models_environment": {"HF_HUB_DOWNLOAD_TIMEOUT": "300", "HF_HUB_ETAG_TIMEOUT": "300"},
            **changes,
        }
        # A file: what stands in a command line is read by every user of the build machine.
        file = self.scratch / "variables.json"
        file.write_text(json.dumps(variables))
        program = str(CHECKOUT / ".venv-ansible/bin/ansible-playbook")
        return [program, *self.inventories, f"--extra-vars=@{file}", *options, str(CHECKOUT / playbook)]

    def start(
        self, playbook: str = "molecule/default/tests/one_instance.yml", *options: str, **changes: object
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(playbook, changes, *options),
            cwd=CHECKOUT,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def play(self, *arguments: str, **changes: object) -> Result:
        process = self.start(*arguments, **changes)
        output, _ = process.communicate(timeout=LONGEST_S)
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def service(self, key: str = KEY) -> Service:
        return Service(f"http://{os.environ['RIG_ADDRESS']}:{PORT}", key)

    def show(self, *names: str) -> dict[str, str]:
        shown = self.host.run(f"systemctl show {UNIT} {' '.join(f'-p {name}' for name in names)}").stdout
        return dict(line.split("=", 1) for line in shown.splitlines())
