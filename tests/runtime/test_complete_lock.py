"""Completing a lock: a stand-in index of ``+rocm6.4`` wheels, hashed and compared with the patches.

The torchaudio of that index has the real Python files of torchaudio 2.9.1, so the patch anchors are judged for
real; torch and triton are small stand-ins.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from wheel_files import ROOT, sha256, write_wheel

import complete_lock
import pip_sources
from locks import RUNTIME_LOCKS, plan

INDEX = "pytorch-rocm6.4"


@functools.cache
def real_torchaudio() -> Path:
    """The index's own torchaudio 2.9.1, kept beside the wheel cache between runs."""
    folder = pip_sources.cache_directory().parent / "test-wheels"
    found = list(folder.glob("torchaudio-2.9.1-cp312-*.whl"))
    if not found:
        arguments = [*pip_sources.target_arguments("3.12"), *pip_sources.index_arguments("default")]
        pip_sources.pip("download", "--quiet", f"--dest={folder}", "torchaudio==2.9.1", *arguments)
        found = list(folder.glob("torchaudio-2.9.1-cp312-*.whl"))
    return found[0]


def rocm_wheels(folder: Path, changed: bytes = b"") -> list[Path]:
    """The three wheels of the ROCm 6.4 runtime as its index would give them."""
    with zipfile.ZipFile(real_torchaudio()) as archive:
        members = {
            name: archive.read(name)
            for name in archive.namelist()
            if name.endswith(".py") and name.startswith("torchaudio/")
        }
    members["torchaudio/version.py"] = b"__version__ = '2.9.1+rocm6.4'\n"
    if changed:
        members["torchaudio/__init__.py"] = changed
    return [
        write_wheel(folder, "torchaudio-2.9.1+rocm6.4-cp312-cp312-manylinux_2_28_x86_64.whl", members),
        write_wheel(
            folder, "torch-2.9.1+rocm6.4-cp312-cp312-manylinux_2_28_x86_64.whl", {"torch/__init__.py": b""}
        ),
        write_wheel(
            folder, "pytorch_triton_rocm-3.5.1-cp312-cp312-linux_x86_64.whl", {"triton/__init__.py": b""}
        ),
    ]


def complete(output: Path, url: str) -> subprocess.CompletedProcess[str]:
    mirrors = {INDEX: {"kind": "simple", "url": url}}
    tool = str(ROOT / "tools" / "complete_lock.py")
    arguments = [
        "--runtime",
        "rocm6.4",
        "--python",
        "3.12",
        "--output",
        str(output),
        "--indexes",
        json.dumps(mirrors),
    ]
    return subprocess.run([sys.executable, tool, *arguments], capture_output=True, text=True, check=False)


def play(inventory: Path, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The operator's command, as the error of an incomplete lock offers it."""
    extra = {"lock_runtime": "rocm6.4", "lock_python": "3.12", "ansible_playbook_python": sys.executable}
    extra["tts_runtime_indexes"] = {INDEX: {"kind": "simple", "url": url}}
    command = [str(ROOT / ".venv-ansible" / "bin" / "ansible-playbook"), "-i", str(inventory / "hosts.yml")]
    return subprocess.run(
        [*command, str(ROOT / "playbooks" / "lock.yml"), "-e", json.dumps(extra), *arguments],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_playbook_writes_into_the_inventory_once(
    tmp_path: Path, serve_index: Callable[[list[Path]], str]
) -> None:
    inventory = tmp_path / "inventory"
    inventory.mkdir()
    (inventory / "hosts.yml").write_text("tts:\n  hosts:\n    far-away:\n")
    written = inventory / "group_vars" / "all" / "runtime_lock.yml"
    url = serve_index(rocm_wheels(tmp_path / "wheels"))
    check = play(inventory, url, "--check")
    assert check.returncode == 0, check.stdout + check.stderr
    assert not written.exists()
    first = play(inventory, url)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "changed=1" in first.stdout
    assert "tts_runtime_lock_completions" in yaml.safe_load(written.read_text(encoding="utf-8"))
    assert "changed=0" in play(inventory, "http://127.0.0.1:9/").stdout


def test_what_is_written_completes_the_lock(tmp_path: Path, serve_index: Callable[[list[Path]], str]) -> None:
    wheels = rocm_wheels(tmp_path / "wheels")
    output = tmp_path / "inventory" / "group_vars" / "all" / "runtime_lock.yml"
    result = complete(output, serve_index(wheels))
    assert result.returncode == 0, result.stderr
    completions = yaml.safe_load(output.read_text(encoding="utf-8"))["tts_runtime_lock_completions"]
    assert completions["rocm6.4"]["wheels"] == {wheel.name: sha256(wheel) for wheel in wheels}
    (record,) = [one for one in completions["rocm6.4"]["patches"] if one["distribution"] == "torchaudio"]
    assert record["version"] == "2.9.1+rocm6.4"
    assert all(file["before"] != file["after"] for file in record["files"] if file["before"])
    assert plan(str(RUNTIME_LOCKS), "rocm6.4", "3.12", "2.36", completions)["incomplete"] == []
    # Another Python has other wheels: they are still to be hashed.
    assert plan(str(RUNTIME_LOCKS), "rocm6.4", "3.13", "2.36", completions)["incomplete"]


def test_a_second_run_asks_no_index_and_changes_nothing(
    tmp_path: Path, serve_index: Callable[[list[Path]], str]
) -> None:
    output = tmp_path / "lock.yml"
    assert complete(output, serve_index(rocm_wheels(tmp_path / "wheels"))).returncode == 0
    before = output.read_bytes()
    again = complete(output, "http://127.0.0.1:9/")
    assert again.returncode == 0, again.stderr
    assert "complete already" in again.stdout
    assert output.read_bytes() == before


def test_a_wheel_whose_anchors_do_not_match_is_not_recorded(
    tmp_path: Path, serve_index: Callable[[list[Path]], str]
) -> None:
    wheels = rocm_wheels(tmp_path / "wheels", changed=b"def load(uri): ...\n")
    result = complete(tmp_path / "lock.yml", serve_index(wheels))
    assert result.returncode == 1
    assert "the patches do not fit these wheels" in result.stderr
    assert "anchor" in result.stderr
    assert not (tmp_path / "lock.yml").exists()


def test_a_difference_outside_the_anchors_is_shown_and_recorded(
    tmp_path: Path, serve_index: Callable[[list[Path]], str]
) -> None:
    with zipfile.ZipFile(real_torchaudio()) as archive:
        text = archive.read("torchaudio/__init__.py") + b"\n# built elsewhere\n"
    result = complete(tmp_path / "lock.yml", serve_index(rocm_wheels(tmp_path / "wheels", changed=text)))
    assert result.returncode == 0, result.stderr
    assert "new, review the difference" in result.stdout
    assert "+++" in result.stdout


def test_a_missing_wheel_is_an_error_that_names_it(
    tmp_path: Path, serve_index: Callable[[list[Path]], str]
) -> None:
    result = complete(tmp_path / "lock.yml", serve_index(rocm_wheels(tmp_path / "wheels")[:1]))
    assert result.returncode == 1
    assert "No matching distribution found for" in result.stderr
    assert not (tmp_path / "lock.yml").exists()


def test_a_wheel_that_changed_since_is_refused() -> None:
    held = {"rocm6.4": {"wheels": {"a.whl": "1"}, "patches": []}}
    with pytest.raises(ValueError, match="A published wheel does not change"):
        complete_lock.merge(held, "rocm6.4", {"a.whl": "2"}, [])


def test_a_file_of_another_origin_is_not_overwritten(tmp_path: Path) -> None:
    output = tmp_path / "all.yml"
    output.write_text("---\nansible_user: admin\n")
    result = complete(output, "http://127.0.0.1:9/")
    assert result.returncode == 1
    assert "was not written by playbooks/lock.yml" in result.stderr
    assert output.read_text() == "---\nansible_user: admin\n"
