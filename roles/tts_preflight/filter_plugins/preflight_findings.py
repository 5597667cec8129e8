"""What fits and what does not, as one table: pure functions of what was read. Runs on the controller.

Every check is a function that yields findings. A finding that is not ``ok`` names its cause and the way out.
"""

from __future__ import annotations

import importlib.util
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Ansible loads filter plugins as loose files, so a neighbour is loaded by its path.
_place = Path(__file__).with_name("runtime_choice.py")
_spec = importlib.util.spec_from_file_location("tts_preflight_runtime_choice", _place)
assert _spec is not None
assert _spec.loader is not None
_choice = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_choice)

GIB = 1024**3
SYSTEMD_MINIMUM = 252
#: This release of the scheduler's firmware hangs on every kernel; linux-firmware took it back within a week.
BROKEN_MES = 0x83
OUR_UNIT = re.compile(r"qwen3-tts(@.+)?\.(service|socket)")
ORDER = ("fatal", "warning", "note", "ok")


@dataclass(frozen=True)
class Finding:
    """One row of the table."""

    severity: str
    check: str
    cause: str
    fix: str = ""


@dataclass(frozen=True)
class Facts:
    """What the checks look at."""

    host: dict[str, Any]
    choice: dict[str, str]
    runtimes: dict[str, Any]
    #: Source -> '' or what is wrong with it, as the host sees it.
    sources: dict[str, str]
    port: int
    disk_gib: float
    memory_gib: float

    @property
    def runtime(self) -> dict[str, Any]:
        found: dict[str, Any] = self.runtimes[self.choice["runtime"]]
        return found

    @property
    def installed(self) -> bool:
        """Whether a complete release is there, so that this run may need neither room nor an index."""
        return int(self.host["releases"]) > 0


def runtime(facts: Facts) -> Iterator[Finding]:
    yield Finding("ok", "runtime", f"{facts.choice['runtime']}: {facts.choice['reason']}")


def kernel(facts: Facts) -> Iterator[Finding]:
    """ROCm 6.4 has a window of kernels; outside it the first tensor on the GPU hangs or crashes."""
    agent = _choice.main_agent(facts.host)
    if agent is None or not facts.choice["runtime"].startswith("rocm6.4"):
        return
    answer, evidence = _choice.accepts_rocm64(agent)
    check = f"kernel {facts.host['kernel']}"
    way_out = (
        "set tts_runtime_release to auto or rocm7, or boot a kernel from before the change "
        "(mainline before 6.18.4; distributions back-ported it)"
    )
    if answer == "no":
        yield Finding(
            "fatal", check, f"{evidence}: it refuses every queue of {facts.choice['runtime']}", way_out
        )
    elif answer == "unknown":
        yield Finding("warning", check, evidence, way_out)
    else:
        yield Finding("ok", check, evidence)
    if facts.host["cwsr_enable"] == "0":
        yield Finding("ok", "amdgpu.cwsr_enable", "0 in the running kernel")
    else:
        yield Finding(
            "warning",
            "amdgpu.cwsr_enable",
            f"{facts.host['cwsr_enable'] or 'not readable'}; ROCm 6.4 needs 0 or the GPU hangs under load",
            "the role amdgpu_kernel sets it; then reboot (playbooks/kernel.yml)",
        )


def gpu(facts: Facts) -> Iterator[Finding]:
    """A GPU runtime without a GPU that the kernel shows, and a GPU that nobody uses."""
    host, device_class = facts.host, facts.choice["device_class"]
    agent = _choice.main_agent(host)
    if device_class == "rocm" and agent is None:
        cause = "no GPU agent under /sys/class/kfd/kfd/topology"
        cause += " (only the CPU's node)" if host["kfd"] else " (the amdgpu driver is not loaded)"
        fix = "load amdgpu with its firmware (dmesg | grep amdgpu), or set tts_runtime_release to auto or cpu"
        yield Finding("fatal", "GPU agent", cause, fix)
    elif device_class == "cuda" and not _choice.has_nvidia(host):
        fix = "install NVIDIA's driver, or set tts_runtime_release to auto or cpu"
        yield Finding("fatal", "NVIDIA driver", "no loaded driver or no node /dev/nvidia0", fix)
    elif device_class == "cpu" and any(host["pci_gpus"].values()):
        plugged = ", ".join(f"{count} of {vendor}" for vendor, count in host["pci_gpus"].items() if count)
        fix = "nothing, where the CPU is wanted; else see dmesg why the driver did not take the GPU"
        yield Finding(
            "note", "GPU agent", f"display controllers are plugged in ({plugged}), the CPU serves", fix
        )
    elif device_class == "rocm":
        yield Finding("ok", "GPU agent", f"{agent['gfx_target']} with {agent['simd_count']} SIMDs")
    else:
        yield Finding("ok", "GPU agent", "none needed" if device_class == "cpu" else "NVIDIA")


def device_nodes(facts: Facts) -> Iterator[Finding]:
    agent = _choice.main_agent(facts.host)
    if facts.choice["device_class"] != "rocm" or agent is None:
        return
    nodes = facts.host["device_nodes"]
    missing = [node for node in ("/dev/kfd", agent["render_node"]) if node not in nodes]
    if missing:
        fix = "is udev running, and is this a container that was not given the nodes? Both must be there"
        yield Finding("fatal", "device nodes", f"missing: {', '.join(missing)}", fix)
        return
    wrong = [node for node in ("/dev/kfd", agent["render_node"]) if nodes[node]["group"] != "render"]
    if wrong:
        fix = "install the udev rules of systemd (group render), or the service cannot open the GPU"
        yield Finding("fatal", "device nodes", f"not of the group render: {', '.join(wrong)}", fix)
    else:
        yield Finding("ok", "device nodes", f"/dev/kfd and {agent['render_node']} belong to the group render")


def firmware(facts: Facts) -> Iterator[Finding]:
    if facts.choice["device_class"] != "rocm":
        return
    versions = facts.host["mes_firmware"]
    if versions is None:
        cause = "not readable (debugfs)"
        yield Finding(
            "note", "MES firmware", cause, "mount -t debugfs none /sys/kernel/debug, and look for 0x83"
        )
    elif BROKEN_MES in versions:
        fix = "install linux-firmware 20260110 or newer, rebuild the initial ramdisk, reboot"
        yield Finding("fatal", "MES firmware", "0x83 hangs the GPU; no kernel argument cures it", fix)
    else:
        yield Finding("ok", "MES firmware", ", ".join(f"{version:#x}" for version in versions) or "none")
    if facts.host["amdgpu_dkms"]:
        fix = "apt-get purge amdgpu-dkms amdgpu-dkms-firmware; reboot"
        cause = "AMD's driver package replaces the kernel's own amdgpu, which is the tested one"
        yield Finding("warning", "amdgpu-dkms", cause, fix)


def override(facts: Facts) -> Iterator[Finding]:
    """A wrong override makes noise and raises nothing, so it is said here and tested after the rollout."""
    value = facts.choice["gfx_override"]
    if not value:
        return
    check = "GFX override"
    if not _choice.OVERRIDE.fullmatch(value):
        fix = "set tts_runtime_gfx_override to auto, none, or three numbers like 11.0.0"
        yield Finding("fatal", check, f"{value!r} is no version", fix)
    elif not facts.runtime["gfx_override"].get(facts.choice["gfx_target"]):
        target = facts.choice["gfx_target"] or "no GPU"
        cause = f"{value} is set, and {facts.choice['runtime']} on {target} needs none"
        yield Finding("warning", check, cause, "set tts_runtime_gfx_override to auto")
    else:
        yield Finding("ok", check, f"{value} for {facts.choice['gfx_target']}")


def python(facts: Facts) -> Iterator[Finding]:
    found, wanted = facts.host["python"], facts.runtime["pythons"]
    check = f"Python {found['path']}"
    fix = f"set tts_runtime_python to an interpreter of version {' or '.join(wanted)}"
    if "error" in found:
        yield Finding("fatal", check, f"does not answer: {found['error']}", f"install it, or {fix}")
    elif found["implementation"] != "cpython" or found["free_threaded"]:
        cause = (
            f"{found['implementation']}{', free-threaded' if found['free_threaded'] else ''}: no wheel fits"
        )
        yield Finding("fatal", check, cause, fix)
    elif found["version"] not in wanted:
        cause = f"{found['version']}, and the wheels of {facts.choice['runtime']} are for {', '.join(wanted)}"
        yield Finding("fatal", check, cause, f"{fix}, or choose another tts_runtime_release")
    else:
        yield Finding("ok", check, f"{found['version']} fits {facts.choice['runtime']}")


def room(facts: Facts) -> Iterator[Finding]:
    """Disk and memory. With a release in place a full disk is a warning: this run may install nothing."""
    check, free = f"disk for {facts.host['directory']}", facts.host["disk_free"] / GIB
    amount = f"{free:.1f} GiB free, {facts.disk_gib:g} wanted"
    if free >= facts.disk_gib:
        yield Finding("ok", check, amount)
    else:
        severity = "warning" if facts.installed else "fatal"
        fix = "make room there, mount a larger file system, or lower tts_preflight_disk_gib"
        yield Finding(severity, check, amount, fix)
    total = facts.host["memory"]["total"] / GIB
    if total >= facts.memory_gib:
        yield Finding("ok", "memory", f"{total:.1f} GiB, {facts.memory_gib:g} wanted")
    else:
        fix = "serve a smaller model, or add memory; the service is killed when it does not fit"
        yield Finding("warning", "memory", f"{total:.1f} GiB, {facts.memory_gib:g} wanted", fix)


def port(facts: Facts) -> Iterator[Finding]:
    owner, check = facts.host["port_owner"], f"port {facts.port}"
    if owner is None:
        yield Finding("ok", check, "free")
    elif OUR_UNIT.fullmatch(owner["unit"]):
        yield Finding("ok", check, f"held by our own unit {owner['unit']}")
    else:
        cause = f"taken by {owner['name']} (process {owner['pid']}, {owner['unit'] or 'no unit'})"
        yield Finding("fatal", check, cause, "stop that, or choose another tts_service_port")


def sources(facts: Facts) -> Iterator[Finding]:
    if not facts.sources:
        yield Finding("note", "wheels", "from pip's own index, which is not asked here")
    for source, trouble in facts.sources.items():
        if not trouble:
            yield Finding("ok", f"wheels from {source}", "answers")
        else:
            severity = "warning" if facts.installed else "fatal"
            fix = "open the way (proxy, firewall, DNS), or copy the wheels and set tts_runtime_wheelhouse"
            yield Finding(severity, f"wheels from {source}", trouble, fix)


def systemd(facts: Facts) -> Iterator[Finding]:
    found = facts.host["systemd"]
    if not found["running"] or found["version"] < SYSTEMD_MINIMUM:
        cause = f"version {found['version']}" + (
            "" if found["running"] else ", which did not boot this system"
        )
        fix = f"a host that is booted by systemd {SYSTEMD_MINIMUM} or newer"
        yield Finding("fatal", "systemd", cause, fix)
    else:
        yield Finding("ok", "systemd", str(found["version"]))


CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    *(runtime, kernel, gpu, device_nodes, firmware, override),
    *(python, room, port, sources, systemd),
)


def preflight_findings(choice: dict[str, str], host: dict[str, Any], **rest: Any) -> list[dict[str, str]]:
    """Every check's findings, the worst first."""
    facts = Facts(host=host, choice=choice, **rest)
    found = [finding for check in CHECKS for finding in check(facts)]
    return [asdict(finding) for finding in sorted(found, key=lambda finding: ORDER.index(finding.severity))]


def preflight_table(findings: list[dict[str, str]], width: int = 150) -> list[str]:
    """The findings as lines of text."""
    checks = max((len(finding["check"]) for finding in findings), default=0)
    lines = []
    for finding in findings:
        head = f"{finding['severity']:<7}  {finding['check']:<{checks}}  "
        words = finding["cause"] + (f" -> {finding['fix']}" if finding["fix"] else "")
        wrapped = textwrap.wrap(words, max(40, width - len(head))) or [""]
        lines += [head + wrapped[0], *(" " * len(head) + line for line in wrapped[1:])]
    return lines


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"preflight_findings": preflight_findings, "preflight_table": preflight_table}
