"""The argument specifications are the one source of the variables' documentation, and they are true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = Path(__file__).resolve().parents[2] / "roles"
NAMES = sorted(path.name for path in ROLES.iterdir() if path.is_dir())

# The public wheel indexes are named in one file only, so the specification describes them and does not repeat them.
ONLY_IN_DEFAULTS = {"tts_runtime_indexes"}


def options(role: str) -> dict[str, Any]:
    text = (ROLES / role / "meta" / "argument_specs.yml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)["argument_specs"]["main"].get("options", {})
    return found


def defaults(role: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(
        (ROLES / role / "defaults" / "main.yml").read_text(encoding="utf-8")
    )
    return found or {}


def test_the_five_roles_are_there() -> None:
    assert {"amdgpu_kernel", "tts_models", "tts_preflight", "tts_runtime", "tts_service"} <= set(NAMES)


@pytest.mark.parametrize("role", NAMES)
def test_every_default_is_specified_and_every_specified_default_is_set(role: str) -> None:
    specified = {name: spec["default"] for name, spec in options(role).items() if "default" in spec}
    assert specified == {
        name: value for name, value in defaults(role).items() if name not in ONLY_IN_DEFAULTS
    }


@pytest.mark.parametrize("role", NAMES)
def test_every_option_says_what_it_is_for(role: str) -> None:
    for name, spec in options(role).items():
        assert name.startswith(role + "_"), f"{name} does not carry its role's name"
        assert spec.get("description"), f"{name} has no description"
        assert spec.get("type"), f"{name} has no type"
        assert spec.get("required") or "default" in spec or name in ONLY_IN_DEFAULTS, (
            f"{name} has neither a default nor required: true"
        )


@pytest.mark.parametrize("role", NAMES)
def test_every_option_is_used(role: str) -> None:
    """An option nobody reads is a promise that nobody keeps."""
    used = "\n".join(
        path.read_text(encoding="utf-8", errors="replace")
        for root in (ROLES, ROLES.parent / "playbooks")
        for path in root.rglob("*")
        if path.is_file() and path.parts[-2] not in ("defaults", "meta", "__pycache__")
    )
    unused = [name for name in options(role) if not re.search(rf"\b{name}\b", used)]
    assert not unused
