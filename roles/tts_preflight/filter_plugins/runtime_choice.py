"""Which runtime a host gets, and why: pure functions of what was read from it. Runs on the controller."""

from __future__ import annotations

import re
from typing import Any

#: Targets that the PyTorch ROCm 6.4 wheels carry code for (pytorch's build scripts of that release).
ROCM64_TARGETS = frozenset(
    {"gfx900", "gfx906", "gfx908", "gfx90a", "gfx942", "gfx1030"}
    | {"gfx1100", "gfx1101", "gfx1102", "gfx1200", "gfx1201"}
)

PAGE = 4096
#: Pages per compute unit, plus a rest, that a runtime from before ROCm 7.2 allocates on gfx1151 for saved
#: waves: 13942784 bytes on 40 units. A kernel that asks for more (117 pages a unit) refuses its queues.
OLD_PAGES_PER_UNIT = 85
OLD_PAGES_REST = 4

OVERRIDE = re.compile(r"\d+\.\d+\.\d+")


def main_agent(host: dict[str, Any]) -> dict[str, Any] | None:
    """The GPU agent that would serve: the one with the most SIMDs (a card beside an integrated GPU)."""
    agents: list[dict[str, Any]] = host["gpu_agents"]
    return max(agents, key=lambda agent: int(agent["simd_count"]), default=None)


def accepts_rocm64(agent: dict[str, Any]) -> tuple[str, str]:
    """Whether the kernel takes queues of a ROCm 6.4 runtime (yes, no, unknown), and what shows it."""
    size = agent["cwsr_size"]
    if size is None:
        return "yes", "the kernel exports no cwsr_size"
    units = agent["simd_count"] // agent["simd_per_cu"] if agent["simd_per_cu"] else 0
    if agent["gfx_target"] != "gfx1151" or not units:
        return "unknown", f"the kernel exports cwsr_size {size}, whose older value is not known for this GPU"
    old = (units * OLD_PAGES_PER_UNIT + OLD_PAGES_REST) * PAGE
    if size <= old:
        return "yes", f"the kernel exports cwsr_size {size}, which a ROCm 6.4 runtime satisfies"
    return "no", f"the kernel demands cwsr_size {size} and a ROCm 6.4 runtime allocates {old}"


def has_nvidia(host: dict[str, Any]) -> bool:
    """A loaded driver and a node to open: a card without them cannot compute."""
    nodes = host["device_nodes"]
    return bool(host["nvidia_driver"]) and any(re.fullmatch(r"/dev/nvidia\d+", node) for node in nodes)


def choose_automatically(host: dict[str, Any], runtimes: dict[str, Any]) -> tuple[str, str]:
    """Runtime and reason for a host that nobody chose for."""
    if has_nvidia(host):
        return "cuda", "an NVIDIA driver is loaded"
    agent = main_agent(host)
    if agent is None:
        return "cpu", "the kernel shows no GPU agent and no NVIDIA driver"
    target = agent["gfx_target"]
    answer, evidence = accepts_rocm64(agent)
    if answer != "yes":
        return "rocm7", f"{target}, and {evidence}"
    python = host["python"].get("version", "")
    if target == "gfx1151" and python in runtimes["rocm6.4-gfx1151"]["pythons"]:
        return "rocm6.4-gfx1151", f"gfx1151 with Python {python}, and {evidence}"
    override = runtimes["rocm6.4"]["gfx_override"].get(target)
    if override:
        return "rocm6.4", f"{target} run as {override} with Python {python}, and {evidence}"
    if target in ROCM64_TARGETS:
        return "rocm6.4", f"{target}, and {evidence}"
    return "rocm7", f"ROCm 6.4 wheels carry no code for {target} and no override is known"


def resolve_override(asked: str, runtime: str, target: str, runtimes: dict[str, Any]) -> str:
    """The value of HSA_OVERRIDE_GFX_VERSION: as asked for, or as runtime and target need it; '' is none."""
    if asked == "none":
        return ""
    if asked != "auto":
        return asked
    return str(runtimes[runtime]["gfx_override"].get(target, ""))


def runtime_choice(
    host: dict[str, Any], runtimes: dict[str, Any], release: str = "auto", override: str = "auto"
) -> dict[str, str]:
    """The choice as one record with its reason.

    ``runtimes`` is what ``roles/tts_runtime/files/locks/runtimes.json`` holds; ``release`` and ``override``
    are the operator's ``tts_runtime_release`` and ``tts_runtime_gfx_override``.
    """
    if release == "auto":
        runtime, reason = choose_automatically(host, runtimes)
    else:
        runtime, reason = release, "tts_runtime_release asks for it"
    agent = main_agent(host)
    target = agent["gfx_target"] if agent else ""
    return {
        "runtime": runtime,
        "reason": reason,
        "device_class": runtimes[runtime]["device_class"],
        "gfx_target": target,
        "gfx_override": resolve_override(override, runtime, target, runtimes),
    }


def wheel_sources(
    runtime: str, runtimes: dict[str, Any], indexes: dict[str, dict[str, str]], wheelhouse: str
) -> list[str]:
    """What must answer for an install: the wheelhouse alone, else every index that has an address."""
    if wheelhouse:
        return [wheelhouse]
    names = {runtimes["groups"][group]["index"] for group in runtimes["runtimes"][runtime]["groups"]}
    return sorted(indexes[name]["url"] for name in names if name in indexes)


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"runtime_choice": runtime_choice, "wheel_sources": wheel_sources}
