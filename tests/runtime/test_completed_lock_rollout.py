"""A lock completed on the operator's side, rolled out: hosts take what was recorded and nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from test_role import PYTHON, STAND_IN, Host, service_wheel  # noqa: F401 - a fixture
from wheel_files import ROOT, write_wheel

import pip_sources
import wheels

pytestmark = pytest.mark.slow

WHEEL = "gpuwheel-1.0+rocm6.4-py3-none-any.whl"


def locks_with_an_unhashed_wheel(folder: Path) -> Path:
    """The stand-in lock and one group of a GPU index, whose wheel has no hash yet."""
    shutil.copytree(STAND_IN, folder)
    runtimes = json.loads((folder / "runtimes.json").read_text(encoding="utf-8"))
    runtimes["groups"]["gpu"] = {"index": "gpu"}
    runtimes["runtimes"]["cpu"]["groups"].append("gpu")
    (folder / "runtimes.json").write_text(json.dumps(runtimes))
    (folder / "gpu.txt").write_text("gpuwheel==1.0+rocm6.4\n")
    return folder


def test_a_host_takes_the_recorded_wheel_and_refuses_another(
    tmp_path: Path,
    service_wheel: str,  # noqa: F811 - the fixture
    serve_index: Callable[[list[Path]], str],
) -> None:
    wheels.fill_all(wheels.groups_of("cpu", [], PYTHON, STAND_IN), PYTHON, pip_sources.cache_directory())
    locks = locks_with_an_unhashed_wheel(tmp_path / "locks")
    genuine = write_wheel(tmp_path / "index", WHEEL, {"gpuwheel.py": b"GENUINE = True\n"})
    house = tmp_path / "house"
    shutil.copytree(pip_sources.cache_directory(), house)
    (tmp_path / "host").mkdir()
    host = Host(tmp_path / "host", service_wheel)
    host.variables |= {"tts_runtime_lock_directory": str(locks), "tts_runtime_wheelhouse": str(house)}

    status, _, output = host.run()
    assert status != 0
    assert f"playbooks/lock.yml -e lock_runtime=cpu -e lock_python={PYTHON}" in output

    recorded = tmp_path / "runtime_lock.yml"
    subprocess.run(
        [
            *(
                sys.executable,
                str(ROOT / "tools" / "complete_lock.py"),
                "--runtime",
                "cpu",
                "--python",
                PYTHON,
            ),
            *("--locks", str(locks), "--output", str(recorded)),
            *("--indexes", json.dumps({"gpu": {"kind": "simple", "url": serve_index([genuine])}})),
        ],
        check=True,
    )
    completions = yaml.safe_load(recorded.read_text(encoding="utf-8"))["tts_runtime_lock_completions"]

    write_wheel(house, WHEEL, {"gpuwheel.py": b"GENUINE = False\n"})
    status, _, output = host.run(tts_runtime_lock_completions=completions)
    assert status != 0
    assert "DO NOT MATCH THE HASHES" in output
    assert not any((release / "release.json").exists() for release in host.releases)

    shutil.copy(genuine, house / WHEEL)
    status, _, output = host.run(tts_runtime_lock_completions=completions)
    assert status == 0, output
    [release] = host.releases
    [installed] = release.glob("venv/lib/python3*/site-packages/gpuwheel.py")
    assert installed.read_text() == "GENUINE = True\n"
