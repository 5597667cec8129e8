"""How the build side calls pip: one source of wheels per command, whatever the operator's configuration says.

pip merges indexes: the highest version of any of them wins, so a second index is a way in for a foreign
package (dependency confusion). Here every call names exactly one index or none. From the operator's own pip
configuration we take what says how to reach the ordinary index (its URL, CA bundle, proxy, timeout) and local
``find-links`` folders; we never take ``extra-index-url``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DEFAULTS = ROOT / "roles" / "tts_runtime" / "defaults" / "main.yml"
KEPT_OPTIONS = ("cert", "client-cert", "proxy", "timeout", "retries")
# The newest glibc level that a locked wheel may ask for; Debian 12 has 2.36.
GLIBC_LEVELS = (36, 35, 34, 31, 28, 27, 26, 25, 24, 18, 17, 12, 5)


class SourceError(RuntimeError):
    """A source of wheels could not be used; the message names it and the ways out."""


def cache_directory() -> Path:
    """Where wheels are kept between runs, shared by the virtual environments, the demo and the test hosts."""
    base = os.environ.get("QWEN3_TTS_CACHE") or str(Path.home() / ".cache" / "qwen3-tts")
    return Path(base) / "wheels"


def configured() -> dict[str, str]:
    """The operator's pip configuration, files and environment merged by pip itself."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    options: dict[str, str] = {}
    for line in listing.splitlines():
        match = re.match(r"(?P<section>[^.=]*)\.(?P<name>[^=]+)='(?P<value>.*)'$", line)
        if match and match["section"] in ("global", "install", "download", ":env:"):
            options[match["name"].lower()] = match["value"]
    return options


def local_folders() -> list[Path]:
    """Local ``find-links`` folders of the operator's configuration; a remote page there is not followed."""
    words = configured().get("find-links", "").replace("\\n", " ").split()
    folders = [
        Path(word.removeprefix("file://")) for word in words if "://" not in word.removeprefix("file://")
    ]
    return [folder for folder in folders if folder.is_dir()]


def clean_environment() -> dict[str, str]:
    """The environment without anything that names a second index."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return {**kept, "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}


def index_arguments(index: str, mirrors: dict[str, dict[str, str]] | None = None) -> list[str]:
    """pip's arguments for one index, by its name in ``tts_runtime_indexes`` or in the operator's ``mirrors``."""
    options = configured()
    arguments = [f"--{name}={options[name]}" for name in KEPT_OPTIONS if name in options]
    known = indexes() | (mirrors or {})
    if index == "default" and index not in known:
        own = options.get("index-url", "")
        return [*arguments, f"--index-url={own}"] if own else arguments
    if index not in known:
        raise SourceError(f"{DEFAULTS} names no index '{index}'; it names: {', '.join(known)}")
    url = known[index]["url"]
    if known[index]["kind"] == "directory":
        return [*arguments, "--no-index", f"--find-links={url}"]
    return [*arguments, f"--index-url={url}"]


def indexes() -> dict[str, dict[str, str]]:
    """The public wheel indexes, from the one file that names them.

    Reads only the block ``tts_runtime_indexes`` and only the shape that the file has, because the build side
    runs before PyYAML is installed.
    """
    found: dict[str, dict[str, str]] = {}
    inside = False
    for line in DEFAULTS.read_text(encoding="utf-8").splitlines():
        if line.startswith("tts_runtime_indexes:"):
            inside = True
        elif inside and (match := re.match(r"  ([\w.-]+): \{kind: (simple|directory), url: (\S+)\}$", line)):
            found[match[1]] = {"kind": match[2], "url": match[3]}
        elif inside and line.strip() and not line.lstrip().startswith("#"):
            inside = False
    if not found:
        raise SourceError(f"{DEFAULTS}: the block tts_runtime_indexes has another shape than expected")
    return found


def target_arguments(python: str) -> list[str]:
    """pip's arguments for wheels of one Python version, also when pip runs under another one."""
    platforms = [
        "linux_x86_64",
        "manylinux2014_x86_64",
        *(f"manylinux_2_{level}_x86_64" for level in GLIBC_LEVELS),
    ]
    return [
        "--only-binary=:all:",
        "--no-deps",
        # pip compares Requires-Python with the Python it runs under, not with --python-version, and the pins
        # are exact anyway.
        "--ignore-requires-python",
        f"--python-version={python}",
        "--implementation=cp",
        *(f"--platform={platform}" for platform in platforms),
    ]


def pip(*arguments: str, python: str = sys.executable) -> None:
    """Run pip quietly with a clean environment; on failure its output is in the error."""
    result = subprocess.run(
        [python, "-m", "pip", *arguments],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise SourceError(f"pip {arguments[0]} failed:\n{(result.stderr or result.stdout).strip()}")


def report(requirements: Path, python: str, index: str) -> list[dict[str, Any]]:
    """Which wheel the index would give for each requirement, with its sha256, without installing anything."""
    out = requirements.with_suffix(f".{python}.json")
    pip(
        "install",
        "--dry-run",
        "--ignore-installed",
        "--quiet",
        f"--target={requirements.parent / 'nothing'}",
        f"--report={out}",
        f"--requirement={requirements}",
        *target_arguments(python),
        *index_arguments(index),
    )
    installed: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))["install"]
    return installed
