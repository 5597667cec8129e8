"""A lock completed on the operator's side, rolled out: hosts take what was recorded, and no build that failed."""

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
from wheel_files import ROOT, sha256, write_wheel

pytestmark = pytest.mark.slow

WHEEL = "gpuwheel-1.0+rocm6.4-py3-none-any.whl"
HASHED = "hashedwheel-1.0-py3-none-any.whl"


def locks_with_an_unhashed_wheel(folder: Path, hashed: Path) -> Path:
    """A runtime of two wheels: a hashed one, and one of a GPU index that has no hash yet.

    What the service itself needs is missing, which `pip check` may therefore say: that the whole stand-in lock is
    installed is tested beside this.
    """
    folder.mkdir()
    runtimes = json.loads((STAND_IN / "runtimes.json").read_text(encoding="utf-8"))
    runtimes["groups"] = {"hashed": {"index": "default"}, "gpu": {"index": "gpu"}}
    runtimes["runtimes"]["cpu"] |= {
        "groups": ["hashed", "gpu"],
        "smoke_imports": ["hashedwheel", "gpuwheel"],
        "pip_check_allowed": [r"qwen3-tts-service \S+ requires \S+, which is not installed\."],
    }
    (folder / "runtimes.json").write_text(json.dumps(runtimes))
    (folder / "hashed.txt").write_text(
        f"# wheel: {hashed.name}\nhashedwheel==1.0 \\\n    --hash=sha256:{sha256(hashed)}\n"
    )
    (folder / "gpu.txt").write_text("gpuwheel==1.0+rocm6.4\n")
    return folder


def test_a_host_takes_the_recorded_wheel_and_refuses_another(
    tmp_path: Path,
    service_wheel: str,  # noqa: F811 - the fixture
    serve_index: Callable[[list[Path]], str],
) -> None:
    house = tmp_path / "house"
    hashed = write_wheel(house, HASHED, {"hashedwheel.py": b""})
    locks = locks_with_an_unhashed_wheel(tmp_path / "locks", hashed)
    genuine = write_wheel(tmp_path / "index", WHEEL, {"gpuwheel.py": b"GENUINE = True\n"})
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
    [unfinished] = host.releases
    assert not (unfinished / "release.json").exists()

    (unfinished / "left-over").write_text("of an interrupted build")
    shutil.copy(genuine, house / WHEEL)
    status, recap, output = host.run(tts_runtime_lock_completions=completions)
    assert status == 0, output
    assert recap["changed"] >= 1
    [release] = host.releases
    assert release == unfinished
    assert (release / "release.json").is_file()
    assert not (release / "left-over").exists(), "an unmarked release is built again from nothing"
    [installed] = release.glob("venv/lib/python3*/site-packages/gpuwheel.py")
    assert installed.read_text() == "GENUINE = True\n"
