"""Which checkpoints lie in a hub cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .verify import problems

#: How the cache names a repository's directory: this, and OWNER--NAME.
_MODELS = "models--"


@dataclass(frozen=True)
class Cached:
    """One commit of one repository; ``size`` in bytes, ``problems`` as of :func:`.verify.problems`."""

    repo: str
    revision: str
    path: Path
    size: int
    problems: tuple[str, ...]

    def described(self) -> dict[str, Any]:
        """For a machine."""
        return {
            "repo": self.repo,
            "revision": self.revision,
            "path": str(self.path),
            "bytes": self.size,
            "complete": not self.problems,
            "problems": list(self.problems),
        }


def cached(cache: Path) -> list[Cached]:
    """Every commit that a download has begun in ``cache``. Raises CheckpointError where that is no directory."""
    if not cache.is_dir():
        raise CheckpointError(f"{cache} is no directory that this user can read", param=str(cache))
    return [_looked_at(snapshot) for snapshot in sorted(cache.glob(f"{_MODELS}*/snapshots/*"))]


def _looked_at(snapshot: Path) -> Cached:
    name = snapshot.parent.parent.name.removeprefix(_MODELS)
    # Links into the directory of blobs; one whose blob is not complete leads nowhere.
    size = sum(file.stat().st_size for file in snapshot.rglob("*") if file.is_file())
    return Cached(name.replace("--", "/", 1), snapshot.name, snapshot, size, tuple(problems(snapshot)))
