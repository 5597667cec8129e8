"""Which runtime a host gets: the decision table, and what holds for every host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loose_module import loose_module

ROLES = Path(__file__).resolve().parents[3] / "roles"
LOCKS = json.loads((ROLES / "tts_runtime/files/locks/runtimes.json").read_text(encoding="utf-8"))
RUNTIMES = LOCKS["runtimes"]


choice = loose_module(ROLES / "tts_preflight/filter_plugins/runtime_choice.py")


def agent(target: str = "gfx1151", units: int = 40, cwsr_size: int | None = None) -> dict[str, Any]:
    return {
        "node": "1",
        "gfx_target": target,
        "simd_count": units * 2,
        "simd_per_cu": 2,
        "cwsr_size": cwsr_size,
        "render_node": "/dev/dri/renderD128",
    }


def host(*agents: dict[str, Any], python: str = "3.11", nvidia: bool = False) -> dict[str, Any]:
    nodes = {"/dev/nvidia0": {"group": "root", "mode": "0666"}} if nvidia else {}
    return {
        "gpu_agents": list(agents),
        "python": {"version": python},
        "nvidia_driver": nvidia,
        "device_nodes": nodes,
    }


@pytest.mark.parametrize(
    ("machine", "runtime", "override", "reason"),
    [
        (host(), "cpu", "", "no GPU agent"),
        (host(nvidia=True), "cuda", "", "NVIDIA"),
        (host(agent("gfx1036", 2), nvidia=True), "cuda", "", "NVIDIA"),
        (host(agent()), "rocm6.4", "11.0.0", "exports no cwsr_size"),
        (host(agent(), python="3.12"), "rocm6.4-gfx1151", "", "Python 3.12"),
        (host(agent(), python="3.13"), "rocm6.4", "11.0.0", "Python 3.13"),
        (host(agent(cwsr_size=13942784), python="3.12"), "rocm6.4-gfx1151", "", "satisfies"),
        (host(agent(units=32, cwsr_size=11157504)), "rocm6.4", "11.0.0", "satisfies"),
        (host(agent(cwsr_size=19185664), python="3.12"), "rocm7", "", "demands cwsr_size 19185664"),
        (host(agent(units=32, cwsr_size=15351808)), "rocm7", "", "demands cwsr_size 15351808"),
        (host(agent("gfx1100", 96)), "rocm6.4", "", "gfx1100"),
        (host(agent("gfx1100", 96, 40000000)), "rocm7", "", "not known for this GPU"),
        (host(agent("gfx1250", 64)), "rocm7", "", "no code for gfx1250"),
        (host(agent("gfx1036", 2), agent("gfx1100", 96)), "rocm6.4", "", "gfx1100"),
    ],
)
def test_the_decision_table(machine: dict[str, Any], runtime: str, override: str, reason: str) -> None:
    found = choice.runtime_choice(machine, RUNTIMES)
    assert found["runtime"] == runtime
    assert found["gfx_override"] == override
    assert reason in found["reason"]
    assert "\n" not in found["reason"]


@pytest.mark.parametrize("runtime", sorted(RUNTIMES))
def test_what_the_operator_asks_for_is_what_is_chosen(runtime: str) -> None:
    found = choice.runtime_choice(host(agent(cwsr_size=19185664)), RUNTIMES, release=runtime)
    assert found["runtime"] == runtime
    assert found["device_class"] == RUNTIMES[runtime]["device_class"]


@pytest.mark.parametrize(("asked", "value"), [("auto", "11.0.0"), ("none", ""), ("11.5.1", "11.5.1")])
def test_the_override_is_the_operators_where_he_has_one(asked: str, value: str) -> None:
    found = choice.runtime_choice(host(agent()), RUNTIMES, release="rocm6.4", override=asked)
    assert found["gfx_override"] == value


TARGETS = st.sampled_from(["gfx1151", "gfx1100", "gfx1036", "gfx90a", "gfx1250"])
SIZES = st.one_of(st.none(), st.integers(1, 2**26))
AGENTS = st.builds(agent, TARGETS, st.integers(0, 304), SIZES)
HOSTS = st.builds(
    lambda agents, python, nvidia: host(*agents, python=python, nvidia=nvidia),
    st.lists(AGENTS, max_size=3),
    st.sampled_from(["3.9", "3.11", "3.12", "3.13", "3.14"]),
    st.booleans(),
)


@given(HOSTS)
def test_no_host_gets_rocm64_on_a_kernel_that_refuses_it(machine: dict[str, Any]) -> None:
    found = choice.runtime_choice(machine, RUNTIMES)
    if found["runtime"].startswith("rocm6.4"):
        assert choice.accepts_rocm64(choice.main_agent(machine))[0] == "yes"


@given(HOSTS)
def test_every_host_gets_a_runtime_of_its_own_kind(machine: dict[str, Any]) -> None:
    found = choice.runtime_choice(machine, RUNTIMES)
    expected = "cuda" if machine["nvidia_driver"] else "rocm" if machine["gpu_agents"] else "cpu"
    assert found["device_class"] == expected
    assert bool(found["gfx_override"]) <= (expected == "rocm")


@given(st.integers(1, 128), st.integers(1, 2**26), st.integers(0, 2**20))
def test_a_kernel_that_demands_more_is_never_more_acceptable(units: int, size: int, more: int) -> None:
    order = ["no", "yes"]
    smaller = choice.accepts_rocm64(agent(units=units, cwsr_size=size))[0]
    larger = choice.accepts_rocm64(agent(units=units, cwsr_size=size + more))[0]
    assert order.index(larger) <= order.index(smaller)


INDEXES = {"torch": {"url": "https://torch.example/whl"}, "other": {"url": "https://other.example"}}


def test_the_sources_are_the_indexes_of_the_runtime_that_have_an_address() -> None:
    locks = {
        "groups": {"service": {"index": "default"}, "gpu": {"index": "torch"}},
        "runtimes": {"rocm6.4": {"groups": ["service", "gpu"]}},
    }
    assert choice.wheel_sources("rocm6.4", locks, INDEXES, "") == ["https://torch.example/whl"]
    assert choice.wheel_sources("rocm6.4", locks, INDEXES, "/srv/wheels") == ["/srv/wheels"]
