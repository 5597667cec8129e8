"""Throw-away environments: own copies of the patched packages, everything else by symbolic link.

A copy of transformers and torchaudio takes a second and costs no disk space (hard links); nothing that a test
does reaches the environment that runs the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVICE = Path(__file__).resolve().parents[2] / "service"
_COPIED = ("transformers", "torchaudio")


@dataclass(frozen=True)
class Environment:
    """One throw-away environment with an interpreter of its own."""

    prefix: Path

    @property
    def python(self) -> Path:
        return self.prefix / "bin" / "python"

    @property
    def packages(self) -> Path:
        return (
            self.prefix / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        )

    def run(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python code here, with this checkout's package importable."""
        variables = {
            **os.environ,
            "PYTHONPATH": str(SERVICE),
            "OMP_NUM_THREADS": "1",
            "PYTHONFAULTHANDLER": "",
        }
        command = [str(self.python), "-c", code, *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=variables, timeout=300
        )

    def files(self) -> dict[str, bytes]:
        """Every file of the copied packages and their metadata, compiled ones left out."""
        return {
            str(path.relative_to(self.packages)): path.read_bytes()
            for folder in self.packages.iterdir()
            if folder.name.startswith(_COPIED) and not folder.is_symlink()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix != ".pyc"
        }

    def unfinished(self) -> list[Path]:
        return [path for path in self.prefix.rglob(".*unfinished*") if path.is_file()]

    def overwrite(self, path: str, content: bytes) -> None:
        """Replace one package file; the other environments share its inode."""
        location = self.packages / path
        location.unlink(missing_ok=True)
        location.write_bytes(content)


def patcher(*arguments: str, before: tuple[str, ...] = ()) -> tuple[int, dict[str, Any], str]:
    """Run the patcher's command line in a process of its own: exit status, JSON, standard error."""
    command = [*before, sys.executable, "-m", "qwen3_tts_service.sitepatches", *arguments, "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(SERVICE)}
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def build_base(folder: Path) -> Environment:
    """The environment that all others are copied from: pristine, whether the caller's is patched or not."""
    base = Environment(folder)
    source = Path(sysconfig.get_paths()["purelib"])
    _write_interpreter(base)
    base.packages.mkdir(parents=True)
    for entry in source.iterdir():
        if entry.name.startswith(_COPIED):
            shutil.copytree(entry, base.packages / entry.name)
        else:
            (base.packages / entry.name).symlink_to(entry)
    for script in Path(sys.prefix, "bin").glob("transformers*"):
        shutil.copy2(script, base.prefix / "bin" / script.name)
    kept = Path(sys.prefix, "share", "qwen3-tts")
    if kept.exists():
        shutil.copytree(kept, base.prefix / "share" / "qwen3-tts")
    status, report, message = patcher("revert", "--python", str(base.python))
    assert status == 0, message
    assert {patch["state"] for patch in report["patches"]} == {"pristine"}
    shutil.rmtree(base.prefix / "share", ignore_errors=True)
    return base


def copy_of(base: Environment, folder: Path) -> Environment:
    """A fresh environment; files are hard links, so a writer that does not replace them is caught."""
    shutil.copytree(base.prefix, folder, symlinks=True, copy_function=os.link)
    return Environment(folder)


def _write_interpreter(environment: Environment) -> None:
    (environment.prefix / "bin").mkdir(parents=True)
    environment.python.symlink_to(Path(sys.executable).resolve())
    home = Path(sys.base_prefix, "bin")
    (environment.prefix / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n")
