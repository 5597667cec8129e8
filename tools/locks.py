"""Where the lock files lie, and the role's own reading of them.

The role's filter plugin is the one parser of locks; it is loaded from its file because a role's plugins are
on no import path.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
RUNTIME_LOCKS = ROOT / "roles" / "tts_runtime" / "files" / "locks"
TOOL_LOCKS = ROOT / "tools" / "locks"
PYTHONS = ("3.11", "3.12", "3.13")


def _release_lock() -> ModuleType:
    name = "release_lock"
    if name not in sys.modules:
        path = ROOT / "roles" / "tts_runtime" / "filter_plugins" / "release_lock.py"
        specification = importlib.util.spec_from_file_location(name, path)
        if specification is None or specification.loader is None:
            raise ImportError(str(path))
        module = importlib.util.module_from_spec(specification)
        sys.modules[name] = module
        specification.loader.exec_module(module)
    return sys.modules[name]


release_lock = _release_lock()
Pin = release_lock.Pin
canonical = release_lock.canonical
fits = release_lock.fits
parse = release_lock.parse
plan = release_lock.plan
render = release_lock.render


@dataclass(frozen=True)
class Lock:
    """One lock file and the input that it is written from."""

    group: str
    path: Path
    input: Path


def find(group: str) -> Lock:
    """The lock of a group, a runtime's or one of the tools' own (develop, controller)."""
    for folder in (RUNTIME_LOCKS, TOOL_LOCKS):
        source = folder / f"{group}.in"
        if source.is_file():
            return Lock(group, folder / f"{group}.txt", source)
    raise ValueError(f"no lock named '{group}' in {RUNTIME_LOCKS} or {TOOL_LOCKS}")


def runtimes_index(group: str) -> str:
    """Which index a group comes from; the tools' own locks come from the ordinary one."""
    described = json.loads((RUNTIME_LOCKS / "runtimes.json").read_text(encoding="utf-8"))
    entry = described["groups"].get(group, {"index": "default"})
    return str(entry["index"])
