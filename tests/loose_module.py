"""Modules that lie on no import path: plugins of roles, tools, what a patch puts into a package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any


def loose_module(path: Path) -> Any:
    """The module in that file, made anew."""
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module
