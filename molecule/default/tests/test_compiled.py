"""Frames are compiled on the host: when the release was staged, by the service's account, and not again."""

from __future__ import annotations

import re

from conftest import UNIT, Host, Service

CACHE = "/var/cache/qwen3-tts/main/compile"
COMPILATION = "qwen3-tts-compile@main.service"


def test_the_service_says_compiled(service: Service) -> None:
    ways = service.request("/ready").json()["ways"]
    assert ways, "it says nothing of how frames are computed"
    assert set(ways.values()) == {"compiled"}, ways


def test_the_role_installed_compiler_and_headers(host: Host) -> None:
    assert (
        host.run("dpkg-query -W -f '${Status}\\n' g++ python3.11-dev").stdout.count("install ok installed")
        == 2
    )


def test_it_was_compiled_by_its_unit_before_the_start(host: Host) -> None:
    journal = host.run(f"journalctl -b -o cat --no-pager -u {COMPILATION} -u {UNIT}").stdout
    compilation, _, service = journal.rpartition(f"Finished {COMPILATION}")
    assert "frames of 1: compiled" in compilation
    assert f"Started {UNIT}" in service
    release = re.search(r"path=/opt/qwen3-tts/releases/([^/]+)/", host.properties("ExecStart")["ExecStart"])
    assert release
    assert host.run(f"cat {CACHE}/{release[1]}/finished").stdout.strip()


def test_what_was_compiled_is_the_services_and_nobody_elses(host: Host) -> None:
    assert host.run(f"find {CACHE} -name '*.so' -print -quit").stdout, "nothing was compiled"
    assert host.run(f"find {CACHE} ! -user qwen3-tts -print -quit").stdout == ""
    assert host.run(f"find {CACHE} -perm /o+rwx ! -type l -print -quit").stdout == "", "UMask=0077"


def test_a_restart_compiles_nothing(host: Host, service: Service) -> None:
    host.run(f"systemctl reset-failed {UNIT}; touch /root/before-the-restart")
    host.run(f"systemctl restart {UNIT}")
    made = host.run(f"find {CACHE} -name '*.so' -newer /root/before-the-restart").stdout
    assert made == ""
    assert set(service.request("/ready").json()["ways"].values()) == {"compiled"}
