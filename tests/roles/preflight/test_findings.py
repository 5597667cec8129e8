"""The table that preflight shows: every failure with cause and way out, all of them at once."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from loose_module import loose_module

ROLES = Path(__file__).resolve().parents[3] / "roles"
RUNTIMES = json.loads((ROLES / "tts_runtime/files/locks/runtimes.json").read_text(encoding="utf-8"))[
    "runtimes"
]
GIB = 1024**3


def load(name: str) -> Any:
    return loose_module(ROLES / "tts_preflight/filter_plugins" / f"{name}.py")


table = load("preflight_findings")
choice = load("runtime_choice")

NODE = {"group": "render", "mode": "0660"}
STRIX_HALO: dict[str, Any] = {
    "kernel": "6.17.0-14-generic",
    "gpu_agents": [
        {
            "node": "1",
            "gfx_target": "gfx1151",
            "simd_count": 80,
            "simd_per_cu": 2,
            "cwsr_size": None,
            "render_node": "/dev/dri/renderD128",
        }
    ],
    "kfd": True,
    "pci_gpus": {"amd": 1, "nvidia": 0},
    "nvidia_driver": False,
    "device_nodes": {"/dev/kfd": NODE, "/dev/dri/renderD128": NODE},
    "mes_firmware": [0x80],
    "amdgpu_dkms": False,
    "cwsr_enable": "0",
    "python": {
        "path": "/usr/bin/python3",
        "version": "3.12",
        "implementation": "cpython",
        "machine": "x86_64",
        "free_threaded": False,
    },
    "memory": {"total": 96 * GIB, "available": 90 * GIB},
    "directory": "/opt/qwen3-tts",
    "disk_free": 200 * GIB,
    "releases": 0,
    "port_owner": None,
    "systemd": {"version": 255, "running": True},
}


def findings(release: str = "auto", override: str = "auto", **changes: Any) -> list[dict[str, str]]:
    host = {
        **copy.deepcopy(STRIX_HALO),
        **{name: value for name, value in changes.items() if name in STRIX_HALO},
    }
    made = choice.runtime_choice(host, RUNTIMES, release=release, override=override)
    found: list[dict[str, str]] = table.preflight_findings(
        made,
        host,
        runtimes=RUNTIMES,
        sources=changes.get("sources", {"/srv/wheels": ""}),
        port=8100,
        disk_gib=25.0,
        memory_gib=16.0,
    )
    return found


def of(found: list[dict[str, str]], severity: str) -> dict[str, dict[str, str]]:
    return {finding["check"]: finding for finding in found if finding["severity"] == severity}


def python(**changes: Any) -> dict[str, Any]:
    return {**STRIX_HALO["python"], **changes}


def new_kernel() -> list[dict[str, Any]]:
    return [{**STRIX_HALO["gpu_agents"][0], "cwsr_size": 19185664}]


def test_a_good_host_has_no_trouble() -> None:
    assert {finding["severity"] for finding in findings()} == {"ok"}


@pytest.mark.parametrize(
    ("check", "cause", "fix", "arguments"),
    [
        (
            "kernel 6.17.0-14-generic",
            "refuses every queue",
            "rocm7",
            {"release": "rocm6.4", "gpu_agents": new_kernel()},
        ),
        (
            "GPU agent",
            "amdgpu driver is not loaded",
            "dmesg",
            {"release": "rocm6.4", "gpu_agents": [], "kfd": False},
        ),
        ("GPU agent", "only the CPU's node", "cpu", {"release": "rocm7", "gpu_agents": []}),
        ("device nodes", "/dev/dri/renderD128", "udev", {"device_nodes": {"/dev/kfd": NODE}}),
        (
            "device nodes",
            "not of the group render",
            "udev",
            {"device_nodes": {"/dev/kfd": {**NODE, "group": "root"}, "/dev/dri/renderD128": NODE}},
        ),
        ("NVIDIA driver", "/dev/nvidia0", "driver", {"release": "cuda"}),
        ("MES firmware", "0x83", "linux-firmware", {"mes_firmware": [0x83]}),
        ("GFX override", "'eleven' is no version", "11.0.0", {"override": "eleven"}),
        ("Python /usr/bin/python3", "3.14", "tts_runtime_python", {"python": python(version="3.14")}),
        (
            "Python /opt/py",
            "No such file",
            "install",
            {"python": {"path": "/opt/py", "error": "No such file"}},
        ),
        (
            "Python /usr/bin/python3",
            "free-threaded",
            "tts_runtime_python",
            {"python": python(free_threaded=True)},
        ),
        ("disk for /opt/qwen3-tts", "10.0 GiB free, 25 wanted", "room", {"disk_free": 10 * GIB}),
        (
            "port 8100",
            "nginx (process 7, nginx.service)",
            "tts_service_port",
            {"port_owner": {"pid": "7", "name": "nginx", "unit": "nginx.service"}},
        ),
        (
            "wheels from https://x",
            "timed out",
            "tts_runtime_wheelhouse",
            {"sources": {"https://x": "timed out"}},
        ),
        ("systemd", "version 245", "252", {"systemd": {"version": 245, "running": True}}),
        ("systemd", "did not boot", "252", {"systemd": {"version": 252, "running": False}}),
    ],
)
def test_each_fatal_finding_names_cause_and_way_out(
    check: str, cause: str, fix: str, arguments: dict[str, Any]
) -> None:
    fatal = of(findings(**arguments), "fatal")
    assert list(fatal) == [check]
    assert cause in fatal[check]["cause"]
    assert fix in fatal[check]["fix"]


@pytest.mark.parametrize(
    ("check", "arguments"),
    [
        ("amdgpu.cwsr_enable", {"cwsr_enable": "1"}),
        ("amdgpu-dkms", {"amdgpu_dkms": True}),
        ("memory", {"memory": {"total": 8 * GIB, "available": 1 * GIB}}),
        ("GFX override", {"override": "11.0.0"}),  # on 3.12 the wheels are gfx1151's own
        ("disk for /opt/qwen3-tts", {"disk_free": GIB, "releases": 1}),
        ("wheels from https://x", {"sources": {"https://x": "timed out"}, "releases": 1}),
    ],
)
def test_what_need_not_stop_the_rollout_only_warns(check: str, arguments: dict[str, Any]) -> None:
    found = findings(**arguments)
    assert not of(found, "fatal")
    assert list(of(found, "warning")) == [check]


@pytest.mark.parametrize("unit", ["qwen3-tts.service", "qwen3-tts@second.service", "qwen3-tts.socket"])
def test_our_own_unit_may_hold_the_port(unit: str) -> None:
    assert not of(findings(port_owner={"pid": "9", "name": "qwen3-tts", "unit": unit}), "fatal")


def test_on_a_new_kernel_the_automatic_choice_is_no_trouble() -> None:
    found = findings(gpu_agents=new_kernel())
    assert not of(found, "fatal")
    assert "rocm7" in of(found, "ok")["runtime"]["cause"]


def test_an_unused_gpu_is_mentioned() -> None:
    assert "1 of amd" in of(findings(gpu_agents=[], kfd=False), "note")["GPU agent"]["cause"]


def test_everything_that_is_wrong_is_shown_at_once_and_first() -> None:
    found = findings(
        release="rocm6.4", gpu_agents=[], disk_free=0, port_owner={"pid": "7", "name": "x", "unit": ""}
    )
    fatal = of(found, "fatal")
    assert set(fatal) == {"GPU agent", "disk for /opt/qwen3-tts", "port 8100"}
    assert [finding["severity"] for finding in found[:3]] == ["fatal"] * 3
    text = "\n".join(table.preflight_table(found))
    assert all(check in text for check in fatal)
    assert "no unit" in text


def test_the_tables_lines_fit_a_terminal() -> None:
    lines = table.preflight_table(findings(release="rocm6.4", gpu_agents=new_kernel()), width=100)
    assert max(map(len, lines)) <= 100
