"""The interpreter whose packages are patched: what it sees, asked from itself.

Paths are never guessed from a folder name. The target's own importlib.metadata says where a distribution
lies, in a subprocess with ``-I``, so that neither PYTHONPATH nor the current folder has a say.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import PatchError

_QUESTION = """
import importlib.metadata, json, os, sys
found = {}
for name in json.loads(sys.argv[1]):
    for distribution in importlib.metadata.distributions(name=name):
        record = [file for file in distribution.files or [] if file.name == "RECORD" and len(file.parts) == 2]
        found.setdefault(name, []).append({
            "version": distribution.version,
            "root": str(distribution.locate_file("")),
            "record": str(distribution.locate_file(record[0])) if record else None,
        })
print(json.dumps({"prefix": sys.prefix, "cache_tag": sys.implementation.cache_tag, "found": found}))
"""


@dataclass(frozen=True)
class Distribution:
    """One installed distribution: ``root`` is the folder that RECORD's paths start from."""

    name: str
    version: str
    root: Path
    record: Path


@dataclass(frozen=True)
class Target:
    """One Python environment. ``prefix`` is its ``sys.prefix``."""

    python: Path
    prefix: Path
    distributions: dict[str, Distribution]


def inspect_target(python: Path, names: Iterable[str]) -> Target:
    """Ask the interpreter ``python`` where the distributions ``names`` lie; those not installed are left out.

    Raises:
        PatchError: the interpreter does not run; a distribution is there twice, has no RECORD, or belongs to
            another environment (a patch would reach beyond the one that was named).
    """
    command = [str(python), "-I", "-c", _QUESTION, json.dumps(sorted(set(names)))]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        facts = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        detail = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
        raise PatchError(
            f"{python} does not answer as a Python interpreter ({' '.join(detail)}); name the bin/python of "
            f"the "
            "environment to patch",
            param="python",
        ) from error
    prefix = Path(facts["prefix"])
    distributions = {name: _only(name, entries, prefix) for name, entries in facts["found"].items()}
    return Target(python=python, prefix=prefix, distributions=distributions)


def _only(name: str, entries: list[dict[str, str | None]], prefix: Path) -> Distribution:
    if len(entries) != 1:
        roots = ", ".join(f"{entry['version']} in {entry['root']}" for entry in entries)
        raise PatchError(
            f"{name} is installed {len(entries)} times ({roots}); remove all but one", param=name
        )
    entry = entries[0]
    root = Path(str(entry["root"]))
    if entry["record"] is None:
        raise PatchError(
            f"{name} in {root} has no RECORD, so nothing says what was installed; install it with pip",
            param=name,
        )
    if not root.resolve().is_relative_to(prefix.resolve()):
        raise PatchError(
            f"{name} lies in {root}, outside of the environment {prefix}; patch the environment that owns it",
            param=name,
        )
    return Distribution(name=name, version=str(entry["version"]), root=root, record=Path(entry["record"]))
