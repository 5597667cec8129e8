"""The role itself, run by ansible-playbook on this machine into a scratch folder, with the stand-in lock.

Real pip, real wheels, a real virtual environment; what needs another machine (systemd, a service account) is
tested on the test hosts.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from wheel_files import ROOT

import pip_sources
import wheels

pytestmark = pytest.mark.slow

ANSIBLE = ROOT / ".venv-ansible" / "bin" / "ansible-playbook"
STAND_IN = ROOT / "molecule" / "stand-in-lock"
PYTHON = f"3.{sys.version_info.minor}"


class Host:
    """A scratch folder that plays the host."""

    def __init__(self, folder: Path, service_wheel: str) -> None:
        self.folder = folder
        self.play = folder / "play.yml"
        self.variables: dict[str, Any] = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "tts_preflight_runtime": "cpu",
            # The interpreter behind this environment: a release must not depend on a developer's environment.
            "tts_runtime_python": os.path.realpath(sys.executable),
            # This machine is no host: nothing of its distribution is installed.
            "tts_runtime_compiler": False,
            "tts_runtime_directory": str(folder / "opt"),
            "tts_runtime_lock_directory": str(STAND_IN),
            "tts_runtime_wheelhouse": str(pip_sources.cache_directory()),
            "tts_runtime_service_wheel": service_wheel,
        }
        role = str(ROOT / "roles" / "tts_runtime")
        self.play.write_text(json.dumps([{"hosts": "all", "gather_facts": True, "roles": [role]}]))

    def run(self, *arguments: str, **variables: object) -> tuple[int, dict[str, int], str]:
        """Exit status, counters of the recap, and the whole output."""
        extra = json.dumps({**self.variables, **variables})
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        result = subprocess.run(
            [str(ANSIBLE), "-i", "host,", str(self.play), "-e", extra, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        recap = re.findall(r"(\w+)=(\d+)", result.stdout.partition("PLAY RECAP")[2])
        # The output is folded to a width; comparisons are not about line breaks.
        return result.returncode, {name: int(count) for name, count in recap}, " ".join(result.stdout.split())

    @property
    def releases(self) -> list[Path]:
        return sorted((self.folder / "opt" / "releases").iterdir())


@pytest.fixture(scope="module")
def service_wheel(tmp_path_factory: pytest.TempPathFactory) -> str:
    import service_wheel

    return service_wheel.build(ROOT, tmp_path_factory.mktemp("wheel"))["path"]


@pytest.fixture
def host(tmp_path: Path, service_wheel: str) -> Host:
    return Host(tmp_path, service_wheel)


@pytest.fixture(scope="module")
def rolled_out(tmp_path_factory: pytest.TempPathFactory, service_wheel: str) -> Host:
    """A host that check mode looked at first, and that was then rolled out to."""
    wheels.fill_all(wheels.groups_of("cpu", [], PYTHON, STAND_IN), PYTHON, pip_sources.cache_directory())
    host = Host(tmp_path_factory.mktemp("host"), service_wheel)
    status, recap, output = host.run("--check")
    assert status == 0, output
    assert recap["changed"] >= 1, "check mode on a fresh host says that something would change"
    assert not (host.folder / "opt").exists(), "check mode changed the host"
    old_mask = os.umask(0o077)
    try:
        status, recap, output = host.run()
    finally:
        os.umask(old_mask)
    assert status == 0, output
    return host


def test_a_release_is_marked_complete_readable_and_compiled(rolled_out: Host) -> None:
    (release,) = rolled_out.releases
    marker = json.loads((release / "release.json").read_text())
    assert marker["id"] == release.name
    assert marker["runtime"] == "cpu"
    unreadable = [
        path for path in release.rglob("*") if not path.is_symlink() and not path.stat().st_mode & 0o004
    ]
    assert unreadable == []
    sources = [*release.glob("venv/lib/python3*/site-packages/flask/*.py")]
    compiled = [*release.glob("venv/lib/python3*/site-packages/flask/__pycache__/*.pyc")]
    assert sources
    assert len(compiled) == len(sources)
    version = subprocess.run(
        [str(release / "venv" / "bin" / "qwen3-tts"), "--help"], capture_output=True, text=True, check=True
    )
    assert "serve" in version.stdout


@pytest.mark.parametrize("mode", [[], ["--check"]], ids=["converge", "check"])
def test_a_second_run_changes_nothing(rolled_out: Host, mode: list[str]) -> None:
    status, recap, output = rolled_out.run(*mode)
    assert status == 0, output
    assert recap["changed"] == 0
    assert len(rolled_out.releases) == 1


def test_a_failed_build_is_said_and_never_marked(host: Host) -> None:
    empty = host.folder / "empty"
    empty.mkdir()
    status, _, output = host.run(tts_runtime_wheelhouse=str(empty))
    assert status != 0
    assert "could not be built: Install the locked wheels" in output
    assert "without its marker: no service uses it" in output
    assert f"Wheels come from {empty}" in output
    assert not any((release / "release.json").exists() for release in host.releases)


def test_an_incomplete_lock_offers_the_command_that_completes_it(host: Host) -> None:
    status, recap, output = host.run(tts_runtime_lock_directory="", tts_runtime_release="rocm6.4")
    assert status != 0
    assert recap["changed"] == 0
    assert "torch==2.9.1+rocm6.4" in output
    assert f"playbooks/lock.yml -e lock_runtime=rocm6.4 -e lock_python={PYTHON}" in output


def test_an_interpreter_that_is_not_there_is_refused(host: Host) -> None:
    status, _, output = host.run(tts_runtime_python="/nowhere/python3")
    assert status != 0
    assert "/nowhere/python3 does not run on this host" in output
    assert "tts_runtime_python" in output


@pytest.mark.parametrize(
    ("compiler", "headers", "word"),
    [(True, False, "no Python.h"), (False, True, "g++ (not found)")],
)
def test_an_interpreter_without_what_compiling_needs_is_refused(
    host: Host, compiler: bool, headers: bool, word: str
) -> None:
    """On a distribution whose packages the role does not know: it says what to install, and installs nothing."""
    facts = {
        "python": PYTHON,
        "version": "CPython 3",
        "machine": "x86_64",
        "glibc": "2.36",
        "venv": True,
        "packaged": False,
        "compiler": compiler,
        "headers": headers,
    }
    interpreter = host.folder / "interpreter"
    interpreter.write_text(f"#!/bin/sh\necho '{json.dumps(facts)}'\n")
    interpreter.chmod(0o755)
    status, recap, output = host.run(
        tts_runtime_python=str(interpreter), tts_runtime_compiler=True, _tts_runtime_debian=False
    )
    assert status != 0
    assert recap["changed"] == 0
    assert word in " ".join(output.split())
    assert "tts_runtime_compiler to false" in " ".join(output.split())


@pytest.mark.parametrize(
    ("given", "target", "expected"),
    [("auto", "gfx1151", ""), ("11.0.0", "gfx1151", "")],
)
def test_a_cpu_release_has_no_gpu_override(rolled_out: Host, given: str, target: str, expected: str) -> None:
    play = json.loads(rolled_out.play.read_text())
    play[0]["tasks"] = [
        {"ansible.builtin.debug": {"msg": "override=[{{ tts_runtime_gfx_override_resolved }}]"}}
    ]
    rolled_out.play.write_text(json.dumps(play))
    status, _, output = rolled_out.run(tts_runtime_gfx_override=given, tts_preflight_gfx_target=target)
    assert status == 0, output
    assert f"override=[{expected}]" in output
