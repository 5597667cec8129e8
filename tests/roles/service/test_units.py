"""The rendered units: every device profile is accepted by systemd and scores at most 1.3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
ROLE = ROOT / "roles" / "tts_service"
PLAYBOOK = ROOT / ".venv-ansible" / "bin" / "ansible-playbook"
KEY = {"name": "client", "key": "0123456789abcdef"}


def play(
    tmp_path: Path, tasks: list[dict[str, Any]], variables: dict[str, Any]
) -> subprocess.CompletedProcess[str]:
    """Run tasks on this machine with the role's own defaults and variables."""
    files = [str(ROLE / "defaults/main.yml"), str(ROLE / "vars/main.yml")]
    content = [{"hosts": "localhost", "gather_facts": False, "vars_files": files, "tasks": tasks}]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(content))
    return subprocess.run(
        [
            PLAYBOOK,
            "-i",
            "localhost,",
            "-c",
            "local",
            "-e",
            json.dumps({"ansible_python_interpreter": sys.executable, **variables}),
            tmp_path / "play.yml",
        ],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_ROLES_PATH": str(ROOT / "roles")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def render(tmp_path: Path, **variables: Any) -> Path:
    """Render unit, drop-in, settings and environment below ``tmp_path``; return the unit."""
    unit = "qwen3-tts@two.service" if variables.get("tts_service_instance") == "two" else "qwen3-tts.service"
    (tmp_path / f"{unit}.d").mkdir()
    targets = {
        "qwen3-tts.service.j2": tmp_path / unit,
        "release.conf.j2": tmp_path / f"{unit}.d" / "10-release.conf",
        "settings.toml.j2": tmp_path / "settings.toml",
        "environment.j2": tmp_path / "environment",
    }
    tasks = [
        {
            "ansible.builtin.template": {
                "src": str(ROLE / "templates" / name),
                "dest": str(target),
                "mode": "0644",
            }
        }
        for name, target in targets.items()
    ]
    # A command that exists, so that systemd's own check does not stop at a release that this machine lacks.
    command = tmp_path / "release" / "venv" / "bin" / "qwen3-tts"
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    done = play(
        tmp_path,
        tasks,
        {
            "tts_runtime_release_path": str(tmp_path / "release"),
            "tts_models_path": "/srv/model",
            # Summed over the templates, which only the role itself finds.
            "_tts_service_fingerprint": "0" * 64,
            **variables,
        },
    )
    assert done.returncode == 0, done.stdout
    return tmp_path / unit


@pytest.mark.parametrize("instance", ["main", "two"])
@pytest.mark.parametrize("device_class", ["cpu", "rocm", "cuda"])
def test_systemd_accepts_the_unit_and_scores_it_at_most_1_3(
    tmp_path: Path, device_class: str, instance: str
) -> None:
    unit = render(tmp_path, tts_preflight_device_class=device_class, tts_service_instance=instance)
    score = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=13", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert score.returncode == 0, score.stdout[-600:] + score.stderr
    verified = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert unit.name not in verified.stderr, verified.stderr


@pytest.mark.parametrize(
    ("device_class", "expected", "absent"),
    [
        ("cpu", ["PrivateDevices=yes"], ["DeviceAllow=", "SupplementaryGroups="]),
        (
            "rocm",
            ["DeviceAllow=/dev/kfd rw", "DeviceAllow=char-drm rw", "SupplementaryGroups=render"],
            ["nvidia"],
        ),
        ("cuda", ["DeviceAllow=char-nvidia rw", "DeviceAllow=char-nvidia-uvm rw"], ["kfd", "render"]),
    ],
)
def test_each_profile_opens_its_own_devices_only(
    tmp_path: Path, device_class: str, expected: list[str], absent: list[str]
) -> None:
    lines = render(tmp_path, tts_preflight_device_class=device_class).read_text().splitlines()
    directives = [line for line in lines if not line.startswith("#")]
    assert set(expected) <= set(directives)
    assert "DevicePolicy=closed" in directives
    assert not [line for line in directives for word in absent if word in line]


def test_the_gpu_override_reaches_the_environment(tmp_path: Path) -> None:
    render(tmp_path, tts_preflight_device_class="rocm", tts_runtime_gfx_override_resolved="11.0.0")
    assert 'HSA_OVERRIDE_GFX_VERSION="11.0.0"' in (tmp_path / "environment").read_text()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"tts_service_host": "0.0.0.0"}, "is no loopback address and tts_service_api_keys is empty"),
        ({"tts_service_host": "0.0.0.0", "tts_service_api_keys": [KEY]}, "tts_service_ip_allow is empty"),
        ({"tts_service_port": 80}, "1024 to 65535"),
        ({"tts_service_api_keys": [{"name": "x", "key": "short"}]}, "16 characters"),
        ({"tts_service_instance": "../etc"}, "lower-case letters"),
        ({"tts_service_settings": {"port": 9}}, "tts_service_port"),
    ],
)
def test_what_would_be_unsafe_is_refused(tmp_path: Path, variables: dict[str, Any], message: str) -> None:
    tasks = [{"ansible.builtin.include_tasks": str(ROLE / "tasks" / "validate.yml")}]
    done = play(tmp_path, tasks, variables)
    assert done.returncode != 0
    assert message in " ".join(done.stdout.split())


def test_the_lan_recipe_is_accepted(tmp_path: Path) -> None:
    tasks = [{"ansible.builtin.include_tasks": str(ROLE / "tasks" / "validate.yml")}]
    recipe = {
        "tts_service_host": "0.0.0.0",
        "tts_service_ip_allow": ["192.168.1.0/24"],
        "tts_service_api_keys": [KEY],
    }
    done = play(tmp_path, tasks, recipe)
    assert done.returncode == 0, done.stdout
