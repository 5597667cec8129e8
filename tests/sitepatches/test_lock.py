"""Builds that the patch set has not seen: refused, until the operator's side has recorded them."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from qwen3_tts_service.sitepatches import record

from .environments import SERVICE, Environment, patcher
from .test_torchaudio import install_torchaudio

REMARK = b"\n# built for another index\n"


def rocm_wheel(source: Path, folder: Path, *, spoil: bytes = b"") -> Path:
    """The same release as another index builds it: a local version, and one file with other bytes."""
    wheel = folder / "torchaudio-2.9.1+rocm6.4-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(source) as old:
        contents = {
            name.replace("2.9.1.dist", "2.9.1+rocm6.4.dist"): old.read(name) for name in old.namelist()
        }
    package, info = "torchaudio/__init__.py", "torchaudio-2.9.1+rocm6.4.dist-info"
    changed = {
        package: contents[package].replace(spoil, b"") + REMARK if spoil else contents[package] + REMARK,
        f"{info}/METADATA": contents[f"{info}/METADATA"].replace(
            b"\nVersion: 2.9.1", b"\nVersion: 2.9.1+rocm6.4"
        ),
    }
    lines = contents[f"{info}/RECORD"].decode().replace("2.9.1.dist-info", "2.9.1+rocm6.4.dist-info")
    contents |= {**changed, f"{info}/RECORD": record.updated(lines, changed).encode()}
    with zipfile.ZipFile(wheel, "w") as new:
        for name, content in contents.items():
            new.writestr(name, content)
    return wheel


def test_unknown_build_needs_a_record(
    environment: Environment, torchaudio_wheel: Callable[[str], Path], tmp_path: Path
) -> None:
    wheel = rocm_wheel(torchaudio_wheel("2.9.1"), tmp_path)
    install_torchaudio(environment, wheel)
    python = ("--python", str(environment.python))
    status, report, _ = patcher("apply", *python)
    assert status == 1
    assert "patch lock WHEEL" in report["error"]["message"]

    status, locked, message = patcher("lock", str(wheel))
    assert status == 0, message
    [build] = locked["records"]
    assert (build["version"], build["variant"]) == ("2.9.1+rocm6.4", "2.9")
    new = [file for file in build["files"] if not file["known"]]
    assert [file["path"] for file in new] == ["torchaudio/__init__.py"]
    assert "+from ._soundfile_io import load, save" in new[0]["diff"]

    known = tmp_path / "known.json"
    known.write_text(json.dumps(locked))
    pristine = environment.files()
    status, report, message = patcher("apply", *python, "--known-hashes", str(known))
    assert status == 0, message
    assert (environment.packages / "torchaudio/__init__.py").read_bytes().endswith(REMARK)
    assert patcher("status", *python, "--known-hashes", str(known))[0] == 0
    # Another host's build of the same version is held to the same record.
    environment.overwrite("torchaudio/__init__.py", b"load = save = None\n")
    assert patcher("apply", *python, "--known-hashes", str(known))[0] == 1

    environment.overwrite("torchaudio/__init__.py", pristine["torchaudio/__init__.py"])
    assert patcher("apply", *python, "--known-hashes", str(known))[0] == 0
    assert patcher("revert", *python)[0] == 0
    assert environment.files() == pristine


def test_lock_of_an_environment_is_the_same_patched_or_not(base: Environment, patched: Environment) -> None:
    _, before, _ = patcher("lock", "--python", str(base.python))
    _, after, _ = patcher("lock", "--python", str(patched.python))
    assert before["records"] == after["records"]
    assert {build["distribution"] for build in before["records"]} == {"torchaudio", "transformers"}
    assert all(file["known"] for build in before["records"] for file in build["files"])


def test_other_layout_is_refused(torchaudio_wheel: Callable[[str], Path], tmp_path: Path) -> None:
    wheel = rocm_wheel(torchaudio_wheel("2.9.1"), tmp_path, spoil=b'    "load_with_torchcodec",\n')
    status, report, _ = patcher("lock", str(wheel))
    assert status == 1
    assert "fits no layout of torchaudio 2.9.1+rocm6.4" in report["error"]["message"]
    assert "stands 0 times instead of once" in report["error"]["message"]


def test_not_a_wheel(tmp_path: Path) -> None:
    path = tmp_path / "x.whl"
    path.write_text("no zip")
    status, report, _ = patcher("lock", str(path))
    assert status == 1
    assert "cannot be read as a wheel" in report["error"]["message"]


def test_runs_from_a_zip_without_site_packages(base: Environment, tmp_path: Path) -> None:
    """As on a host: straight from the service wheel, with an interpreter that has no packages at all."""
    archive = tmp_path / "service.whl"
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in (SERVICE / "qwen3_tts_service").rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                zipped.write(path, path.relative_to(SERVICE))
    command = [sys.executable, "-S", "-m", "qwen3_tts_service.sitepatches"]
    environment = {"PYTHONPATH": str(archive), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [*command, "status", "--python", str(base.python), "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert {patch["state"] for patch in json.loads(done.stdout)["patches"]} == {"pristine"}


def test_click_command_is_the_same_program() -> None:
    program = "from qwen3_tts_service.cli import main; main(['patch', 'digest'])"
    environment = {"PYTHONPATH": str(SERVICE), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == patcher("digest")[1]["digest"]
    refused = "from qwen3_tts_service.cli import main; main(['patch', 'lock'])"
    done = subprocess.run([sys.executable, "-c", refused], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "name either wheel files or --python" in done.stderr
