"""The rendered units: every device profile is accepted by systemd and scores at most 1.3."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
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
        timeout=600,
    )


CLASSES = ("cpu", "rocm", "cuda")
#: The answer of `qwen3-tts bench --placement --json`, as the slurp module brings it.
ANSWER = [
    "QWEN3_TTS_DEVICE=cuda",
    "QWEN3_TTS_DTYPE=bf16",
    "QWEN3_TTS_CODEC_DEVICE=gpu",
    "QWEN3_TTS_CODEC_DTYPE=fp32",
    "# with the codec in bf16, frames on cuda in bf16, codec on gpu in bf16: 1.50 times as fast, 28 dB SNR",
]
KEPT = {"content": base64.b64encode(json.dumps({"facts": {"settings": ANSWER}}).encode()).decode()}
#: What is rendered, by name: in one play, for an ansible-playbook of its own costs seconds.
VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {"tts_preflight_device_class": name} for name in CLASSES},
    **{
        f"{name} two": {"tts_preflight_device_class": name, "tts_service_instance": "two"} for name in CLASSES
    },
    "keys": {"tts_service_api_keys": [KEY]},
    "override": {"tts_preflight_device_class": "rocm", "tts_runtime_gfx_override_resolved": "11.0.0"},
    "gfx1151": {"tts_preflight_device_class": "rocm", "tts_preflight_gfx_target": "gfx1151"},
    "gfx1151 by hand": {
        "tts_preflight_device_class": "rocm",
        "tts_preflight_gfx_target": "gfx1151",
        "tts_service_environment": {"GPU_MAX_HW_QUEUES": "2"},
    },
    "requests": {
        "tts_service_settings": {"queue_size": 3, "log_level": "debug", "max_input_chars": 200},
        "tts_service_port": 8200,
    },
    "slots": {"tts_service_settings": {"slots": 4}},
    "one order": {"tts_service_settings": {"dtype": "bf16", "cpu_threads": 2}},
    "other order": {"tts_service_settings": {"cpu_threads": 2, "dtype": "bf16"}},
    "another environment": {"tts_service_environment": {"OMP_NUM_THREADS": "3"}},
    "measured": {"tts_service_placement": "measure", "_tts_service_placement_kept": KEPT},
    "measured by hand": {
        "tts_service_placement": "measure",
        "_tts_service_placement_kept": KEPT,
        "tts_service_settings": {"codec_device": "cpu", "cpu_threads": 3, "fastest_way": "eager"},
    },
    "not measured": {"tts_service_placement": "measure", "_tts_service_placement_kept": {"skipped": True}},
    "awaited": {
        "tts_models_awaited": True,
        "tts_models_download": {
            "unit": "qwen3-tts-models@A--B.service",
            "state": "/run/qwen3-tts-models/A--B.json",
        },
        "tts_service_placement": "measure",
        "_tts_service_placement_kept": KEPT,
    },
    # A fact of an instance before this one in the same play.
    "not asked to measure": {"_tts_service_placement_kept": KEPT},
}


@dataclass(frozen=True)
class Rendered:
    """The files of one variant."""

    folder: Path

    @property
    def service(self) -> Path:
        [unit] = [
            one
            for one in self.folder.glob("qwen3-tts*.service")
            if "-compile@" not in one.name and "-placement@" not in one.name
        ]
        return unit

    @property
    def compilation(self) -> Path:
        [unit] = self.folder.glob("qwen3-tts-compile@*.service")
        return unit

    @property
    def measurement(self) -> Path:
        [unit] = self.folder.glob("qwen3-tts-placement@*.service")
        return unit

    @property
    def settings(self) -> dict[str, Any]:
        return tomllib.loads((self.folder / "settings.toml").read_text())

    @property
    def environment(self) -> str:
        return (self.folder / "environment").read_text()


def directives(unit: Path) -> set[str]:
    return {line for line in unit.read_text().splitlines() if line and not line.startswith(("#", "["))}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rendered]:
    """Units, drop-in, settings and environment of every variant."""
    folder = tmp_path_factory.mktemp("rendered")
    # A command that exists, so that systemd's own check does not stop at a release that this machine lacks.
    command = folder / "release" / "venv" / "bin" / "qwen3-tts"
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    # Lookups and facts are the controller's work, one module writes them all: a template task each takes minutes.
    tasks: list[dict[str, Any]] = []
    for name, variables in VARIANTS.items():
        instance = variables.get("tts_service_instance", "main")
        unit = "qwen3-tts.service" if instance == "main" else f"qwen3-tts@{instance}.service"
        targets = {
            unit: "qwen3-tts.service.j2",
            f"qwen3-tts-compile@{instance}.service": "qwen3-tts-compile.service.j2",
            f"qwen3-tts-placement@{instance}.service": "qwen3-tts-placement.service.j2",
            f"{unit}.d/10-release.conf": "release.conf.j2",
            "settings.toml": "settings.toml.j2",
            "environment": "environment.j2",
        }
        (folder / name / f"{unit}.d").mkdir(parents=True)
        texts = {
            f"{name}/{target}": f"{{{{ lookup('ansible.builtin.template', '{ROLE}/templates/{template}') }}}}"
            for target, template in targets.items()
        }
        tasks.append({"ansible.builtin.set_fact": {f"v{len(tasks)}": texts}, "vars": variables})
    facts = ", ".join(f"v{number}" for number in range(len(tasks)))
    collected = {
        "content": f"{{{{ [{facts}] | combine | to_json }}}}",
        "dest": str(folder / "all.json"),
        "mode": "0600",
    }
    tasks.append({"ansible.builtin.copy": collected})
    common = {
        "tts_runtime_release_path": str(folder / "release"),
        "tts_models_path": "/srv/model",
        # Summed over the templates, which only the role itself finds.
        "_tts_service_fingerprint": "0" * 64,
    }
    done = play(folder, tasks, common)
    assert done.returncode == 0, done.stdout
    for target, text in json.loads((folder / "all.json").read_text()).items():
        (folder / target).write_text(text)
    return {name: Rendered(folder / name) for name in VARIANTS}


@pytest.mark.parametrize("variant", [*CLASSES, *(f"{name} two" for name in CLASSES)])
def test_systemd_accepts_the_units_and_scores_them_at_most_1_3(
    rendered: dict[str, Rendered], variant: str
) -> None:
    for unit in (rendered[variant].service, rendered[variant].compilation, rendered[variant].measurement):
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
        ("cpu", {"PrivateDevices=yes"}, ["DeviceAllow=", "SupplementaryGroups="]),
        (
            "rocm",
            {"DeviceAllow=/dev/kfd rw", "DeviceAllow=char-drm rw", "SupplementaryGroups=render"},
            ["nvidia"],
        ),
        (
            "cuda",
            {"DeviceAllow=char-nvidia rw", "DeviceAllow=char-nvidia-uvm rw"},
            ["kfd", "SupplementaryGroups="],
        ),
    ],
)
def test_each_profile_opens_its_own_devices_only(
    rendered: dict[str, Rendered], device_class: str, expected: set[str], absent: list[str]
) -> None:
    one = rendered[device_class]
    for unit in (one.service, one.compilation, one.measurement):
        found = directives(unit)
        assert found >= expected | {"DevicePolicy=closed"}
        assert not [line for line in found for word in absent if word in line]


def test_the_gpu_override_reaches_the_environment(rendered: dict[str, Rendered]) -> None:
    assert 'HSA_OVERRIDE_GFX_VERSION="11.0.0"' in rendered["override"].environment
    assert "HSA_OVERRIDE" not in rendered["rocm"].environment


@pytest.mark.parametrize("variant", [*CLASSES, "keys"])
@pytest.mark.parametrize("unit", ["compilation", "measurement"])
def test_what_prepares_a_start_runs_under_the_confinement_of_the_start(
    rendered: dict[str, Rendered], unit: str, variant: str
) -> None:
    serving, preparing = directives(rendered[variant].service), directives(getattr(rendered[variant], unit))
    own = ("Type", "Exec", "Timeout", "Nice", "Description")
    assert not {line for line in preparing - serving if not line.startswith(own)}
    missing = {line.split("=")[0] for line in serving - preparing if not line.startswith(own)}
    # It answers nobody, so it holds no keys.
    keys = {"LoadCredential", "RuntimeDirectory", "RuntimeDirectoryMode"}
    assert missing - keys == {
        "After",
        "KillMode",
        "NotifyAccess",
        "Restart",
        "RestartPreventExitStatus",
        "RestartSec",
        "StartLimitBurst",
        "StartLimitIntervalSec",
        "WantedBy",
        # It sends no notifications.
        "WatchdogSec",
    }
    assert missing & keys == (keys if variant == "keys" else set())


def test_a_reload_hands_over_the_keys_as_they_are_now(rendered: dict[str, Rendered]) -> None:
    lines = [line for line in directives(rendered["keys"].service) if line.startswith("ExecReload=")]
    source, target = "/etc/qwen3-tts/credentials/main.keys", "%t/qwen3-tts/main/api_keys"
    assert sorted(lines) == [
        # With root's rights, for the file is root's.
        f"ExecReload=+/usr/bin/install -m 0400 -o qwen3-tts -g qwen3-tts {source} {target}",
        "ExecReload=/bin/kill -HUP $MAINPID",
    ]
    assert "RuntimeDirectory=qwen3-tts/main" in directives(rendered["keys"].service)
    assert not [line for line in directives(rendered["cpu"].service) if line.startswith("ExecReload=")]


def test_a_device_that_failed_twice_is_not_started_a_third_time(rendered: dict[str, Rendered]) -> None:
    assert {"Restart=on-failure", "RestartPreventExitStatus=86"} <= directives(rendered["cpu"].service)


@pytest.mark.parametrize("variant", CLASSES)
def test_a_service_that_no_longer_notifies_is_restarted(rendered: dict[str, Rendered], variant: str) -> None:
    # on-failure counts the watchdog's end as one.
    assert {"Type=notify", "WatchdogSec=60", "Restart=on-failure"} <= directives(rendered[variant].service)


def test_compiled_code_and_the_gpu_libraries_databases_belong_to_one_release(
    rendered: dict[str, Rendered],
) -> None:
    cache = "/var/cache/qwen3-tts/two/compile/release"
    assert {
        f'TORCHINDUCTOR_CACHE_DIR="{cache}/inductor"',
        f'TRITON_CACHE_DIR="{cache}/triton"',
        f'MIOPEN_USER_DB_PATH="{cache}/miopen"',
        f'MIOPEN_CUSTOM_CACHE_DIR="{cache}/miopen"',
    } <= set(rendered["rocm two"].environment.splitlines())


@pytest.mark.parametrize(
    ("variant", "queues"),
    [("gfx1151", '"1"'), ("gfx1151 by hand", '"2"'), ("rocm", None), ("cuda", None), ("cpu", None)],
)
def test_the_profile_of_one_gpu_is_for_that_gpu_and_the_operators_word_wins(
    rendered: dict[str, Rendered], variant: str, queues: str | None
) -> None:
    values = dict(
        line.split("=", 1) for line in rendered[variant].environment.splitlines() if not line.startswith("#")
    )
    assert values.get("GPU_MAX_HW_QUEUES") == queues
    assert ("MIOPEN_FIND_MODE" in values) is (VARIANTS[variant]["tts_preflight_device_class"] == "rocm")
    for never in ("PYTORCH_HIP_ALLOC_CONF", "AOTRITON", "HIPBLASLT", "HSA_ENABLE_"):
        assert not any(never in name for name in values)


def test_only_what_compiled_code_depends_on_is_compiled_again(rendered: dict[str, Rendered]) -> None:
    fingerprints = {
        name: next(line for line in directives(one.compilation) if line.startswith("ExecStartPost"))
        for name, one in rendered.items()
    }
    assert fingerprints["requests"] == fingerprints["cpu"]
    assert fingerprints["one order"] == fingerprints["other order"]
    different = [fingerprints[name] for name in ("cpu", "slots", "one order", "another environment", "cuda")]
    assert len(set(different)) == len(different)


def test_what_was_measured_is_set_and_the_operators_word_wins(rendered: dict[str, Rendered]) -> None:
    measured = {"device": "cuda", "dtype": "bf16", "codec_device": "gpu", "codec_dtype": "fp32"}
    assert rendered["measured"].settings.items() >= measured.items()
    chosen = {"cpu_threads": 3, "fastest_way": "eager"}
    assert (
        rendered["measured by hand"].settings.items() >= {**measured, **chosen, "codec_device": "cpu"}.items()
    )
    for variant in ("not measured", "not asked to measure"):
        assert rendered[variant].settings == rendered["cpu"].settings
    compiled = [directives(rendered[name].compilation) for name in ("cpu", "measured")]
    assert compiled[0] != compiled[1], "what was compiled for other settings is not enough"


def test_only_what_waits_for_weights_starts_their_download_again(rendered: dict[str, Rendered]) -> None:
    wants = "Wants=qwen3-tts-models@A--B.service"
    assert wants in directives(rendered["awaited"].service)
    state = {"download_state": "/run/qwen3-tts-models/A--B.json"}
    # Nor does it take what was measured for other weights.
    assert rendered["awaited"].settings == {**rendered["cpu"].settings, **state}
    assert not [line for line in directives(rendered["cpu"].service) if line.startswith("Wants=")]


def test_an_answer_belongs_to_what_was_measured(rendered: dict[str, Rendered]) -> None:
    def answer(variant: str) -> str:
        lines = directives(rendered[variant].measurement)
        return next(line for line in lines if line.startswith("ExecStartPost=")).split()[-1]

    assert answer("cpu").startswith("/var/lib/qwen3-tts/main/placement/release/")
    # Neither what only requests feel nor what it recommended asks for another measurement.
    assert {answer(name) for name in ("requests", "slots", "measured")} == {answer("cpu")}
    others = [answer(name) for name in ("cpu", "cuda", "cpu two", "one order", "measured by hand")]
    assert len(set(others)) == len(others)
    by_hand = next(
        line for line in directives(rendered["measured by hand"].measurement) if line.startswith("ExecStart=")
    )
    assert "--dtype auto --cpu-threads 3 --fastest-way eager" in by_hand


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
