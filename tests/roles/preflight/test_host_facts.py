"""The module that reads a host, on fixture trees."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from loose_module import loose_module

MODULE = Path(__file__).resolve().parents[3] / "roles/tts_preflight/library/tts_host_facts.py"
SOCKETS = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
facts = loose_module(MODULE)


def write(root: Path, name: str, content: str) -> Path:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


def node(root: Path, number: int, **properties: int) -> None:
    lines = "".join(f"{name} {value}\n" for name, value in properties.items())
    write(root, f"sys/class/kfd/kfd/topology/nodes/{number}/properties", lines)


@pytest.mark.parametrize(
    ("version", "name"),
    [(110501, "gfx1151"), (110000, "gfx1100"), (90010, "gfx90a"), (100300, "gfx1030"), (120001, "gfx1201")],
)
def test_targets_have_the_compilers_names(version: int, name: str) -> None:
    assert facts.gfx_name(version) == name


def test_the_cpus_node_is_no_agent_and_the_gpus_is(tmp_path: Path) -> None:
    node(tmp_path, 0, cpu_cores_count=32, simd_count=0, gfx_target_version=0)
    node(tmp_path, 1, simd_count=80, simd_per_cu=2, gfx_target_version=110501, drm_render_minor=129)
    (agent,) = facts.gpu_agents(tmp_path)
    assert agent == {
        "node": "1",
        "gfx_target": "gfx1151",
        "simd_count": 80,
        "simd_per_cu": 2,
        "cwsr_size": None,
        "render_node": "/dev/dri/renderD129",
    }


def test_an_exported_cwsr_size_is_read(tmp_path: Path) -> None:
    node(tmp_path, 1, simd_count=80, simd_per_cu=2, gfx_target_version=110501, cwsr_size=19185664)
    assert facts.gpu_agents(tmp_path)[0]["cwsr_size"] == 19185664


def test_no_topology_is_no_agent(tmp_path: Path) -> None:
    assert facts.gpu_agents(tmp_path) == []


def test_display_controllers_are_counted_and_their_audio_functions_are_not(tmp_path: Path) -> None:
    for slot, vendor, kind in (
        ("0", "0x1002", "0x038000"),
        ("1", "0x1002", "0x040300"),
        ("2", "0x10de", "0x030000"),
    ):
        write(tmp_path, f"sys/bus/pci/devices/{slot}/vendor", vendor + "\n")
        write(tmp_path, f"sys/bus/pci/devices/{slot}/class", kind + "\n")
    assert facts.pci_gpus(tmp_path) == {"amd": 1, "nvidia": 1}


def test_scheduler_firmware_is_the_low_twelve_bits(tmp_path: Path) -> None:
    content = (
        "VCE feature version: 0, firmware version: 0x00000000\n"
        "MES_KIQ feature version: 6, firmware version: 0x0000006f\n"
        "MES feature version: 1, firmware version: 0x00001083\n"
    )
    write(tmp_path, "sys/kernel/debug/dri/128/amdgpu_firmware_info", content)
    assert facts.mes_firmware(tmp_path) == [0x83]


def test_unreadable_firmware_is_not_taken_for_good_firmware(tmp_path: Path) -> None:
    assert facts.mes_firmware(tmp_path) is None


def test_the_driver_package_is_seen_by_its_module(tmp_path: Path) -> None:
    assert not facts.amdgpu_dkms(tmp_path, "6.14.0")
    write(tmp_path, "lib/modules/6.14.0/updates/dkms/amdgpu.ko.zst", "")
    assert facts.amdgpu_dkms(tmp_path, "6.14.0")


def test_free_space_of_a_directory_that_does_not_exist_yet(tmp_path: Path) -> None:
    assert facts.disk_free(tmp_path / "opt/qwen3-tts") > 0


@pytest.mark.parametrize("table", ["tcp", "tcp6"])
def test_the_ports_owner_is_named_with_its_unit(tmp_path: Path, table: str) -> None:
    address = "0100007F" if table == "tcp" else "0" * 32
    line = f"   0: {address}:1FA4 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 1\n"
    write(tmp_path, f"proc/net/{table}", SOCKETS + line)
    write(tmp_path, "proc/812/comm", "qwen3-tts\n")
    write(
        tmp_path,
        "proc/812/cgroup",
        "1:name=systemd:/\n0::/system.slice/system-qwen3.slice/qwen3-tts@b.service\n",
    )
    (tmp_path / "proc/812/fd").mkdir()
    (tmp_path / "proc/812/fd/5").symlink_to("socket:[4711]")
    assert facts.port_owner(tmp_path, 8100) == {
        "pid": "812",
        "name": "qwen3-tts",
        "unit": "qwen3-tts@b.service",
    }
    assert facts.port_owner(tmp_path, 8101) is None


def test_a_connection_from_the_port_is_no_listener(tmp_path: Path) -> None:
    line = "   0: 0100007F:1FA4 0100007F:9999 01 00000000:00000000 00:00000000 00000000 0 0 4711 1\n"
    write(tmp_path, "proc/net/tcp", SOCKETS + line)
    assert facts.port_owner(tmp_path, 8100) is None


def run_here(words: list[str]) -> tuple[int, str, str]:
    import subprocess

    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_interpreter_answers_for_itself() -> None:
    found = facts.interpreter(sys.executable, run_here)
    assert found["version"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert found["implementation"] == sys.implementation.name


@pytest.mark.parametrize("path", ["/nonexistent/python", "/bin/false"])
def test_an_interpreter_that_does_not_answer_is_an_error_with_its_path(path: str) -> None:
    found = facts.interpreter(path, run_here)
    assert found["path"] == path
    assert "error" in found


def test_this_machine_can_be_read_whole_and_is_left_alone() -> None:
    host = facts.read_host(Path("/"), sys.executable, 1, "/opt/qwen3-tts", run_here)
    assert host["kernel"]
    assert host["memory"]["total"] > 0
    assert host["port_owner"] is None
