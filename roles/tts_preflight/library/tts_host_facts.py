#!/usr/bin/python
"""Read from ``/sys``, ``/proc`` and ``/dev`` what decides how a host can serve speech. Changes nothing."""

from __future__ import annotations

import grp
import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

DOCUMENTATION = r"""
---
module: tts_host_facts
short_description: Read what a host has for text to speech
description:
  - Returns GPU agents, device nodes, firmware, kernel, interpreter, memory, disk, port owner and systemd.
  - Reads only, so check mode and a real run do the same.
options:
  python: {description: The interpreter a release would be built with., type: path, required: true}
  port: {description: The TCP port that the service shall listen on., type: int, required: true}
  directory: {description: Where releases are or will be installed., type: path, required: true}
"""

RETURN = r"""
host: {description: Everything that was read, type: dict, returned: always}
"""

#: PCI vendors of display controllers (class 0x03) that can compute.
PCI_VENDORS = {"0x1002": "amd", "0x10de": "nvidia"}
LISTEN = "0A"

ASK_PYTHON = (
    "import json, platform, sys, sysconfig; "
    "print(json.dumps({'version': '%d.%d' % sys.version_info[:2], 'implementation': sys.implementation.name, "
    "'machine': platform.machine(), 'free_threaded': bool(sysconfig.get_config_var('Py_GIL_DISABLED'))}))"
)

Run = Callable[[list[str]], "tuple[int, str, str]"]


def text(path: Path) -> str | None:
    """The file's content; None where it is missing or must not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def gfx_name(version: int) -> str:
    """``110501`` -> ``gfx1151``: pairs of digits for major, minor and stepping, the last in hexadecimal."""
    return f"gfx{version // 10000}{version // 100 % 100}{version % 100:x}"


def gpu_agents(root: Path) -> list[dict[str, Any]]:
    """The GPU agents that the kernel shows to ROCm. A node of the CPU has no gfx target and is not one."""
    agents = []
    nodes = root / "sys/class/kfd/kfd/topology/nodes"
    for node in sorted(nodes.glob("*"), key=lambda path: path.name.zfill(4)):
        pairs = [line.split() for line in (text(node / "properties") or "").splitlines()]
        properties = {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
        version = properties.get("gfx_target_version", 0)
        if version:
            agents.append(
                {
                    "node": node.name,
                    "gfx_target": gfx_name(version),
                    "simd_count": properties.get("simd_count", 0),
                    "simd_per_cu": properties.get("simd_per_cu", 0),
                    # Absent on kernels from before the larger save area: that absence is the answer.
                    "cwsr_size": properties.get("cwsr_size"),
                    "render_node": f"/dev/dri/renderD{properties.get('drm_render_minor', 0)}",
                }
            )
    return agents


def pci_gpus(root: Path) -> dict[str, int]:
    """How many display controllers of each vendor are plugged in, whether or not a driver took them."""
    counts = dict.fromkeys(PCI_VENDORS.values(), 0)
    for device in (root / "sys/bus/pci/devices").glob("*"):
        vendor = PCI_VENDORS.get(text(device / "vendor") or "")
        if vendor and (text(device / "class") or "").startswith("0x03"):
            counts[vendor] += 1
    return counts


def mes_firmware(root: Path) -> list[int] | None:
    """Versions of the GPUs' micro engine scheduler; None where debugfs cannot be read."""
    files = sorted((root / "sys/kernel/debug/dri").glob("*/amdgpu_firmware_info"))
    contents = [content for file in files if (content := text(file)) is not None]
    if not contents:
        return None
    pattern = re.compile(r"^MES feature version: \d+, firmware version: (0x[0-9a-f]+)", re.MULTILINE)
    # The driver compares the low twelve bits; the rest is the instruction set's number.
    return sorted({int(version, 16) & 0xFFF for content in contents for version in pattern.findall(content)})


def device_node(path: Path) -> dict[str, str]:
    """Owner, group and mode of a node, as ``ls -l`` would say it."""
    status = path.stat()
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    return {"group": group, "mode": f"{stat.S_IMODE(status.st_mode):04o}"}


def device_nodes(root: Path) -> dict[str, dict[str, str]]:
    """The nodes that GPU runtimes open."""
    patterns = ("dev/kfd", "dev/dri/renderD*", "dev/nvidiactl", "dev/nvidia[0-9]*", "dev/nvidia-uvm")
    paths = sorted(path for pattern in patterns for path in root.glob(pattern))
    return {f"/{path.relative_to(root)}": device_node(path) for path in paths}


def amdgpu_dkms(root: Path, kernel: str) -> bool:
    """Whether AMD's own driver package, instead of the kernel's driver, is or would be loaded."""
    updates = (root / "lib/modules" / kernel / "updates").glob("**/amdgpu.ko*")
    return (root / "var/lib/dkms/amdgpu").is_dir() or any(updates)


def memory(root: Path) -> dict[str, int]:
    """Bytes of memory: all of it, and what can be had without swapping."""
    found = dict(
        re.findall(r"^(MemTotal|MemAvailable):\s+(\d+) kB", text(root / "proc/meminfo") or "", re.MULTILINE)
    )
    return {
        "total": int(found.get("MemTotal", 0)) * 1024,
        "available": int(found.get("MemAvailable", 0)) * 1024,
    }


def disk_free(place: Path) -> int:
    """Free bytes of the file system that ``place`` lies on, or will lie on."""
    while not place.exists():
        place = place.parent
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize


def listening_sockets(root: Path, port: int) -> set[str]:
    """Inodes of the sockets that listen on ``port``, IPv4 and IPv6."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in (text(root / "proc/net" / table) or "").splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    return inodes


def port_owner(root: Path, port: int) -> dict[str, str] | None:
    """Who listens on ``port``: process, name and systemd unit; None when nobody does."""
    inodes = listening_sockets(root, port)
    if not inodes:
        return None
    targets = {f"socket:[{inode}]" for inode in inodes}
    for descriptor in (root / "proc").glob("[0-9]*/fd/*"):
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue  # the process or the descriptor is gone
        if target in targets:
            process = descriptor.parents[1]
            units = re.findall(
                r"([^/\s]+\.(?:service|scope|socket))(?=/|$)", text(process / "cgroup") or "", re.M
            )
            name = text(process / "comm") or "?"
            return {"pid": process.name, "name": name, "unit": units[-1] if units else ""}
    return {"pid": "?", "name": "a process that cannot be seen", "unit": ""}


def interpreter(path: str, run: Run) -> dict[str, Any]:
    """Version of the interpreter at ``path``, asked from itself; ``error`` when it does not answer."""
    try:
        status, output, error = run([path, "-I", "-c", ASK_PYTHON])
    except OSError as problem:
        return {"path": path, "error": str(problem)}
    if status:
        return {"path": path, "error": (error or output).strip()[-300:]}
    return {"path": path, **json.loads(output)}


def systemd(root: Path, run: Run) -> dict[str, Any]:
    """Version of systemd and whether it runs this system."""
    try:
        status, output, _error = run(["systemctl", "--version"])
    except OSError:
        return {"version": 0, "running": False}
    found = re.match(r"systemd (\d+)", output)
    version = int(found[1]) if status == 0 and found else 0
    return {"version": version, "running": (root / "run/systemd/system").is_dir()}


def read_host(root: Path, python: str, port: int, directory: str, run: Run) -> dict[str, Any]:
    """Everything, from the tree under ``root``."""
    kernel = text(root / "proc/sys/kernel/osrelease") or ""
    return {
        "kernel": kernel,
        "gpu_agents": gpu_agents(root),
        "kfd": (root / "sys/class/kfd/kfd").is_dir(),
        "pci_gpus": pci_gpus(root),
        "nvidia_driver": (root / "proc/driver/nvidia/version").exists(),
        "device_nodes": device_nodes(root),
        "mes_firmware": mes_firmware(root),
        "amdgpu_dkms": amdgpu_dkms(root, kernel),
        "cwsr_enable": text(root / "sys/module/amdgpu/parameters/cwsr_enable"),
        "python": interpreter(python, run),
        "memory": memory(root),
        "directory": directory,
        "disk_free": disk_free(root / directory.lstrip("/")),
        "releases": len(list((root / directory.lstrip("/") / "releases").glob("*/release.json"))),
        "port_owner": port_owner(root, port),
        "systemd": systemd(root, run),
    }


def main() -> None:
    """Ansible's entry point."""
    from ansible.module_utils.basic import AnsibleModule

    module = AnsibleModule(
        argument_spec={
            "python": {"type": "path", "required": True},
            "port": {"type": "int", "required": True},
            "directory": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )

    def run(words: list[str]) -> tuple[int, str, str]:
        return module.run_command(words, handle_exceptions=False)

    wanted = module.params
    host = read_host(Path("/"), wanted["python"], wanted["port"], wanted["directory"], run)
    module.exit_json(changed=False, host=host)


if __name__ == "__main__":
    main()
