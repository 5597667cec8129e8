"""Where settings come from, and what an operator reads when one is wrong."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import ConfigurationError
from .settings import PREFIX, Settings

#: Variables under our prefix that are not settings: the file's name, the build machine's cache, and whom the
#: commands ask that are clients.
NOT_SETTINGS = frozenset(
    {"CONFIG", "CACHE", "DEBIAN_MIRROR", "DEBIAN_SECURITY_MIRROR", "CLIENT_SERVER", "CLIENT_KEY"}
)


def _from_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"settings file {path} cannot be read: {error.strerror}; correct {PREFIX}CONFIG or the file's rights",
            param=f"{PREFIX}CONFIG",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"settings file {path} is not TOML: {error}", param=f"{PREFIX}CONFIG"
        ) from error


def _unknown_variables() -> list[str]:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | {
        PREFIX + name for name in NOT_SETTINGS
    }
    return sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)


def _explain(error: ValidationError, file: Path | None) -> str:
    parts = []
    for item in error.errors(include_url=False):
        name = ".".join(str(part) for part in item["loc"])
        where = f"{PREFIX}{name.upper()}" + (f" (or `{name}` in {file})" if file else "")
        if item["type"] == "missing":
            parts.append(f"{where} is required: {Settings.model_fields[name].description}")
        elif item["type"] == "extra_forbidden":
            parts.append(
                f"`{name}` in {file} is no setting; there are {', '.join(sorted(Settings.model_fields))}"
            )
        else:
            parts.append(f"{where} is {item['input']!r}: {item['msg']}")
    return "; ".join(parts)


def load() -> Settings:
    """Read the settings of this process.

    Raises ConfigurationError naming each wrong setting, its value and what is allowed.
    """
    name = os.environ.get(f"{PREFIX}CONFIG")
    file = Path(name) if name else None
    if unknown := _unknown_variables():
        raise ConfigurationError(
            f"{', '.join(unknown)}: no such setting; there are "
            + ", ".join(f"{PREFIX}{field.upper()}" for field in sorted(Settings.model_fields)),
            param=unknown[0],
        )
    try:
        return Settings(**(_from_file(file) if file else {}))
    except ValidationError as error:
        raise ConfigurationError(_explain(error, file), param=str(error.errors()[0]["loc"][0])) from error
