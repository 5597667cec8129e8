"""Wheels made for tests, and the checkout that the tests are about."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def write_wheel(folder: Path, file: str, members: dict[str, bytes]) -> Path:
    """A wheel that pip installs: the given members with metadata after the file's name."""
    name, version = file.split("-")[:2]
    info = f"{name}-{version}.dist-info"
    tag = "-".join(file.removesuffix(".whl").split("-")[-3:])
    everything = {
        **members,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    record = "".join(f"{path},,\n" for path in [*everything, f"{info}/RECORD"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in {**everything, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(member, content)
    return path


def sha256(path: Path) -> str:
    """The file's hash, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
