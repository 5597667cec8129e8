"""The patch set: what is changed in which file of which release, as data.

One TOML file under ``patches/`` is one patch. It names the distribution and the range of versions that it
is meant for; per known version (a *variant*) the files, their sha256 before and after, and the edits. An
edit is an exact anchor and its replacement: the anchor stands once in the file or the patch is refused. A
file with ``add`` is one that the patch brings along. Nothing here touches an installed package.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import PatchError


def sha256(content: bytes) -> str:
    """Return the hexadecimal sha256 of ``content``."""
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Edit:
    """One exact anchor and what takes its place."""

    name: str
    find: str
    replace: str


@dataclass(frozen=True)
class PatchedFile:
    """One file of a variant; ``before`` is None for a file that the patch adds (its text is ``added``)."""

    path: str
    before: str | None
    after: str
    edits: tuple[Edit, ...] = ()
    added: bytes | None = None

    def rewrite(self, content: bytes | None) -> bytes:
        """Return the patched content.

        Raises:
            PatchError: an anchor does not stand exactly once, or the result is no Python.
        """
        if self.added is not None:
            result = self.added
        else:
            text = (content or b"").decode("utf-8")
            for edit in self.edits:
                count = text.count(edit.find)
                if count != 1:
                    raise PatchError(
                        f"{self.path}: the anchor of edit {edit.name!r} stands {count} times instead of "
                        f"once; "
                        "this release has another layout and needs a variant of its own in the patch set",
                        param=self.path,
                    )
                text = text.replace(edit.find, edit.replace)
            result = text.encode("utf-8")
        try:
            compile(result, self.path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            raise PatchError(
                f"{self.path}: the patched file is no Python: {error}", param=self.path
            ) from error
        return result


@dataclass(frozen=True)
class Variant:
    """The files of one or more versions that share their content."""

    id: str
    versions: tuple[str, ...]
    files: tuple[PatchedFile, ...]


@dataclass(frozen=True)
class Patch:
    """One patch of one distribution."""

    name: str
    distribution: str
    version_range: str
    reason: str
    link: str
    removal: str
    variants: tuple[Variant, ...]

    @property
    def known_versions(self) -> tuple[str, ...]:
        return tuple(version for variant in self.variants for version in variant.versions)

    def check_version(self, version: str) -> None:
        """Raise PatchError when ``version`` is outside the range that the patch is meant for."""
        if not version_in_range(version, self.version_range):
            raise PatchError(
                f"patch {self.name} is for {self.distribution} {self.version_range}, installed is {version}; "
                "install a version of that range, or extend the patch set",
                param=self.distribution,
            )


def version_in_range(version: str, version_range: str) -> bool:
    """Compare release numbers, the local part (``+rocm6.4``) left out, with a range like ``>=2.8.0,<2.12``.

    A pre-release, development or post release is never in a range: its content is nobody's guess.
    """
    installed = _release(version)
    if installed is None:
        return False
    for clause in version_range.split(","):
        match = re.fullmatch(r"\s*(>=|<)\s*([0-9.]+)\s*", clause)
        bound = _release(match[2]) if match else None
        if match is None or bound is None:
            raise PatchError(f"the version range {version_range!r} is not of the form '>=A,<B'")
        if (match[1] == ">=" and installed < bound) or (match[1] == "<" and installed >= bound):
            return False
    return True


def public_version(version: str) -> str:
    """Return ``version`` without its local part: ``2.9.1`` for ``2.9.1+rocm6.4``."""
    return version.partition("+")[0]


def _release(version: str) -> tuple[int, ...] | None:
    public = public_version(version)
    if not re.fullmatch(r"\d+(\.\d+)*", public):
        return None
    numbers = [int(number) for number in public.split(".")]
    return tuple(numbers + [0] * (4 - len(numbers)))


@dataclass(frozen=True)
class KnownHashes:
    """Hashes of builds that the patch set itself does not know, recorded by ``lock`` on the operator's side.

    ``records`` maps (patch, version, path) to (sha256 before, sha256 after, variant id).
    """

    records: tuple[tuple[tuple[str, str, str], tuple[str, str, str]], ...] = ()

    def find(self, patch: str, version: str, path: str) -> tuple[str, str, str] | None:
        return dict(self.records).get((patch, version, path))

    def variant_id(self, patch: str, version: str) -> str | None:
        ids = {value[2] for key, value in self.records if key[:2] == (patch, version)}
        return ids.pop() if len(ids) == 1 else None


def load_known_hashes(path: Path | None) -> KnownHashes:
    """Read the records that ``lock --json`` printed (its ``records`` list, or the whole object).

    Raises:
        PatchError: the file cannot be read or has another shape.
    """
    if path is None:
        return KnownHashes()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = content["records"] if isinstance(content, dict) else content
        records = {}
        for entry in entries:
            for file in entry["files"]:
                key = (str(entry["patch"]), str(entry["version"]), str(file["path"]))
                value = (str(file["before"]), str(file["after"]), str(entry["variant"]))
                if not all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in value[:2]):
                    raise ValueError(f"{file['path']}: before and after must be sha256 in hexadecimal")
                records[key] = value
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PatchError(
            f"{path} holds no known hashes ({error!r}); write it with `qwen3-tts patch lock WHEEL --json`",
            param="known-hashes",
        ) from error
    return KnownHashes(tuple(sorted(records.items())))


def _data_files() -> list[tuple[str, bytes]]:
    folder = resources.files(__package__) / "patches"
    entries = [entry for entry in folder.iterdir() if entry.name.endswith((".toml", ".py"))]
    return [(entry.name, entry.read_bytes()) for entry in sorted(entries, key=lambda entry: entry.name)]


@cache
def load_patch_set() -> tuple[Patch, ...]:
    """Return the patches of this package, in the order of their file names."""
    contents = dict(_data_files())
    return tuple(
        _parse(tomllib.loads(text.decode("utf-8")), contents)
        for name, text in contents.items()
        if name.endswith(".toml")
    )


def _parse(data: dict[str, Any], contents: dict[str, bytes]) -> Patch:
    edits = {name: Edit(name, entry["find"], entry["replace"]) for name, entry in data["edits"].items()}
    variants = tuple(
        Variant(
            id=variant["id"],
            versions=tuple(variant["versions"]),
            files=tuple(_parse_file(entry, edits, contents) for entry in variant["file"]),
        )
        for variant in data["variant"]
    )
    return Patch(
        name=data["name"],
        distribution=data["distribution"],
        version_range=data["versions"],
        reason=" ".join(data["reason"].split()),
        link=data["link"],
        removal=" ".join(data["removal"].split()),
        variants=variants,
    )


def _parse_file(entry: dict[str, Any], edits: dict[str, Edit], contents: dict[str, bytes]) -> PatchedFile:
    if "add" in entry:
        return PatchedFile(
            path=entry["path"], before=None, after=entry["after"], added=contents[entry["add"]]
        )
    names: Iterable[str] = entry["edits"]
    return PatchedFile(
        path=entry["path"],
        before=entry["before"],
        after=entry["after"],
        edits=tuple(edits[name] for name in names),
    )


def digest(known: KnownHashes | None = None) -> str:
    """Return the sha256 over the whole patch set, which release ids are made of.

    With ``known``, the operator's own records count as well: other records, another release.
    """
    summary = hashlib.sha256()
    for name, content in _data_files():
        summary.update(f"{name} {len(content)}\n".encode())
        summary.update(content)
    if known is not None and known.records:
        summary.update(json.dumps(known.records).encode())
    return summary.hexdigest()
