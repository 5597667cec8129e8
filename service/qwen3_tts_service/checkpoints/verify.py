"""Is a checkpoint directory complete? Answered from the files alone, without torch and without a network.

Two depths. ``problems`` opens what a server would open: the configurations parse and every weight file's
header fits its length, which is what a download that stopped half-way breaks. ``digest_problem`` reads a
whole file and compares its hash with the one that the hub states.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

CONFIGURATIONS = ("config.json", "speech_tokenizer/config.json")
WEIGHTS = ("model.safetensors", "speech_tokenizer/model.safetensors")
READ_BYTES = 4 << 20


def problems(directory: Path, sizes: Mapping[str, int] | None = None) -> list[str]:
    """What keeps ``directory`` from being a usable checkpoint, one sentence each; empty when nothing does.

    ``sizes`` maps relative file names to bytes, as a download recorded them.
    """
    if not directory.is_dir():
        return [f"{directory} is no directory that this user can read"]
    found = [problem for name in CONFIGURATIONS for problem in _configuration_problems(directory, name)]
    for name in WEIGHTS:
        found += _weights_problems(directory, name)
    for name, size in (sizes or {}).items():
        found += _size_problems(directory, name, size)
    return found


def digest_problem(file: Path, *, sha256: str | None, blob_id: str | None) -> str | None:
    """Compare a file with the hub's hash of it: sha256 for large files, git's object id for small ones.

    Returns a sentence when they differ, None when they agree or the hub stated neither.
    """
    if sha256 is not None:
        expected, digest = sha256, hashlib.sha256()
    elif blob_id is not None:
        # Git's name for a file, not a protection: small files have no other hash on the hub.
        expected, digest = blob_id, hashlib.sha1(usedforsecurity=False)
        digest.update(b"blob %d\0" % file.stat().st_size)
    else:
        return None
    with file.open("rb") as stream:
        while block := stream.read(READ_BYTES):
            digest.update(block)
    actual = digest.hexdigest()
    return None if actual == expected else f"{file.name} has {digest.name} {actual}, the hub says {expected}"


def _configuration_problems(directory: Path, name: str) -> Iterator[str]:
    try:
        json.loads((directory / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        yield f"{name} is missing"
    except (OSError, ValueError) as error:
        yield f"{name} cannot be read: {error}"


def _weights_problems(directory: Path, name: str) -> list[str]:
    """A weight file, or the shards that its index names."""
    index = directory / f"{name}.index.json"
    if not index.exists():
        return _shard_problems(directory, name)
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        return [f"{name}.index.json cannot be read: {error}"]
    parent = Path(name).parent
    return [problem for shard in shards for problem in _shard_problems(directory, str(parent / shard))]


def _shard_problems(directory: Path, name: str) -> list[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(directory / name, framework="numpy") as weights:
            if not list(weights.keys()):
                return [f"{name} holds no tensors"]
    except FileNotFoundError:
        return [f"{name} is missing"]
    except (OSError, SafetensorError) as error:
        return [f"{name} is incomplete or no safetensors file: {error}"]
    return []


def _size_problems(directory: Path, name: str, size: int) -> Iterator[str]:
    try:
        actual = (directory / name).stat().st_size
    except OSError as error:
        yield f"{name} cannot be read: {error}"
        return
    if actual != size:
        yield f"{name} has {actual} bytes, {size} were downloaded"
