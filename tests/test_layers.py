"""Who may import whom: the arrows of the design, read from the source."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import qwen3_tts_service

ROOT = Path(qwen3_tts_service.__file__).parent
NAME = "qwen3_tts_service"

#: Part of the package -> the parts that it may import, besides itself. None: all of them.
ALLOWED: dict[str, set[str] | None] = {
    "__init__": set(),
    "errors": set(),
    "cores": set(),
    "native": set(),
    "journal": set(),
    "config": {"errors"},
    "speech": {"errors"},
    "voices": {"speech", "errors"},
    "audio": {"errors"},
    "checkpoints": {"errors"},
    "sitepatches": {"errors"},
    "engine": {"speech", "checkpoints", "cores", "native", "errors"},
    "codec": {"checkpoints", "cores", "native", "errors"},
    "pipeline": {"speech", "engine", "codec", "checkpoints", "errors"},
    "narration": {"speech", "errors"},
    "admission": {"errors"},
    "synthesis": {"admission", "narration", "speech", "audio", "errors"},
    "engine_stats": set(),
    "capacity": {"narration", "speech"},
    "loaded_engine": {"engine_stats", "narration", "errors"},
    "served_model": {
        "admission",
        "capacity",
        "engine_stats",
        "loaded_engine",
        "synthesis",
        "speech",
        "errors",
    },
    "weights": {"checkpoints", "errors"},
    "start_time": set(),
    "lifecycle": {
        "admission",
        "loaded_engine",
        "served_model",
        "synthesis",
        "speech",
        "weights",
        "errors",
    },
    "engine_process": {
        "loaded_engine",
        "pipeline",
        "engine",
        "checkpoints",
        "speech",
        "config",
        "journal",
        "errors",
    },
    "api": {
        "checkpoints",
        "synthesis",
        "served_model",
        "lifecycle",
        "voices",
        "speech",
        "audio",
        "config",
        "journal",
        "errors",
    },
    "bench": {
        "pipeline",
        "speech",
        "voices",
        "engine",
        "codec",
        "audio",
        "checkpoints",
        "journal",
        "native",
        "errors",
    },
    "client": {"errors"},
    "commands": None,
    "cli": None,
}
#: Outside package -> the parts that may know it.
CONFINED = {
    "av": {"audio"},
    "sentencex": {"speech"},
    "torch": {"engine", "codec", "checkpoints", "bench"},
    "transformers": {"engine", "codec", "checkpoints"},
    "qwen_tts": {"engine", "codec", "checkpoints"},
    "flask": {"api"},
    "werkzeug": {"api"},
    "waitress": {"api"},
    "limits": {"api", "config"},
    "prometheus_client": {"api"},
    "click": {"commands", "cli"},
}
#: Files under patches/ are put into other packages: they are cargo and no part of ours.
SOURCES = sorted(file for file in ROOT.rglob("*.py") if file.parent.name != "patches")


def part_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(tree: ast.AST, file: Path) -> set[str]:
    """Every module that is imported anywhere in the file, as an absolute dotted name."""
    package = [NAME, *file.relative_to(ROOT).parent.parts]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def violations(source: str, file: Path) -> list[str]:
    part = part_of(file)
    allowed = ALLOWED[part]
    wrong = []
    for name in sorted(imported(ast.parse(source), file)):
        head, *rest = name.split(".")
        if head != NAME:
            if part not in CONFINED.get(head, {part}):
                wrong.append(f"{part} imports {head}")
        elif rest and rest[0] in ALLOWED and allowed is not None and rest[0] not in allowed | {part}:
            wrong.append(f"{part} imports {rest[0]}")
    return wrong


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_follow_the_design(file: Path) -> None:
    assert part_of(file) in ALLOWED, "a new part of the package needs a row in the table"
    assert violations(file.read_text(encoding="utf-8"), file) == []


@pytest.mark.parametrize(
    ("place", "source", "violation"),
    [
        ("speech/text.py", "from ..config import Settings", "speech imports config"),
        ("speech/text.py", "from .. import config", "speech imports config"),
        ("speech/text.py", "import qwen3_tts_service.api.app", "speech imports api"),
        (
            "engine/reference.py",
            "def f():\n    from ..synthesis import Synthesis",
            "engine imports synthesis",
        ),
        ("errors.py", "from . import journal", "errors imports journal"),
        ("api/app.py", "from ..engine.reference import ReferenceEngine", "api imports engine"),
        ("api/app.py", "import torch.cuda", "api imports torch"),
        ("synthesis.py", "from flask import g", "synthesis imports flask"),
    ],
)
def test_a_wrong_import_is_found(place: str, source: str, violation: str) -> None:
    assert violations(source, ROOT / place) == [violation]


def test_sitepatches_need_the_standard_library_only() -> None:
    """The patcher runs outside the environment that it patches, from the wheel's file."""
    for file in (ROOT / "sitepatches").glob("*.py"):
        names = {name.split(".")[0] for name in imported(ast.parse(file.read_text()), file)}
        assert names <= sys.stdlib_module_names | {NAME, "__future__"}, file
