"""The service wheel is the same bytes wherever and however it is built."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from wheel_files import ROOT

import service_wheel


def build(root: Path, output: Path, umask: int, **environment: str) -> dict[str, str]:
    command = [
        sys.executable,
        str(ROOT / "tools" / "service_wheel.py"),
        "--root",
        str(root),
        "--output",
        str(output),
    ]
    result = subprocess.run(
        command, env={**os.environ, **environment}, umask=umask, capture_output=True, text=True, check=True
    )
    described: dict[str, str] = json.loads(result.stdout)
    return described


def copy(target: Path, mode: int, mtime: int) -> Path:
    for name in service_wheel.SOURCES:
        source = ROOT / name
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target / name)
    for path in target.rglob("*"):
        if path.is_file():
            path.chmod(mode)
            os.utime(path, (mtime, mtime))
    return target


def test_umask_times_modes_locale_and_folder_have_no_say(tmp_path: Path) -> None:
    one = copy(tmp_path / "one", 0o600, 1_000_000_000)
    two = copy(tmp_path / "two" / "deeper", 0o775, 1_700_000_000)
    (two / "service" / "qwen3_tts_service" / "__pycache__").mkdir()
    (two / "service" / "qwen3_tts_service" / "__pycache__" / "cli.cpython-311.pyc").write_bytes(b"x")
    first = build(one, tmp_path / "first", 0o077, LC_ALL="C", TZ="Asia/Tokyo", SOURCE_DATE_EPOCH="5")
    second = build(two, tmp_path / "second", 0o002, LC_ALL="C.UTF-8", TZ="UTC")
    assert first["sha256"] == second["sha256"]
    assert Path(first["path"]).read_bytes() == Path(second["path"]).read_bytes()


def test_another_source_is_another_wheel(tmp_path: Path) -> None:
    root = copy(tmp_path / "one", 0o644, 1_000_000_000)
    before = build(root, tmp_path / "out", 0o022)
    with (root / "service" / "qwen3_tts_service" / "errors.py").open("a", encoding="utf-8") as stream:
        stream.write("# changed\n")
    after = build(root, tmp_path / "out", 0o022)
    assert before["sha256"] != after["sha256"]
    assert before["patch_set"] == after["patch_set"]


PAGE = ROOT / "service" / "qwen3_tts_service" / "page"


def test_patches_and_page_travel_in_the_wheel(tmp_path: Path) -> None:
    wheel = build(ROOT, tmp_path, 0o022)
    with zipfile.ZipFile(wheel["path"]) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
    assert any(name.startswith("qwen3_tts_service/sitepatches/patches/") for name in names)
    page_files = {file.relative_to(ROOT / "service").as_posix() for file in PAGE.rglob("*") if file.is_file()}
    assert "qwen3_tts_service/page/index.html" in page_files <= set(names)
    assert names[-1].endswith(".dist-info/RECORD")
    digest = subprocess.run(
        [sys.executable, "-m", "qwen3_tts_service.sitepatches", "digest"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "service")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert wheel["patch_set"] == digest.stdout.strip()


def test_a_file_that_is_no_service_wheel_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other-1-py3-none-any.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("other.py", "")
    with pytest.raises(service_wheel.BuildError, match="no service wheel"):
        service_wheel.describe(other)
