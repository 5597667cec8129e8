"""Hashes for builds that nobody here has seen: worked out from the wheel, on the operator's side.

A wheel of another index can carry the same version and other bytes. When every anchor of a variant stands
in it exactly once, the patch fits; the hashes before and after and the difference are shown for review, and
the records go into the inventory, against which every later host is verified.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from email.parser import BytesParser
from pathlib import Path

from ..errors import PatchError
from .files import read_if_there
from .patchset import Patch, Variant, load_patch_set, public_version, sha256
from .plan import unified_diff
from .store import Store
from .target import inspect_target


@dataclass(frozen=True)
class LockedFile:
    """One file of a build: ``known`` says that the patch set has its hashes already."""

    path: str
    before: str
    after: str
    known: bool
    diff: str


@dataclass(frozen=True)
class LockRecord:
    """What one patch does to one build."""

    patch: str
    distribution: str
    version: str
    variant: str
    files: tuple[LockedFile, ...]


def lock_wheel(wheel: Path) -> list[LockRecord]:
    """Return the records of every patch for one wheel file; none when no patch is for that distribution.

    Raises:
        PatchError: the file is no wheel, its version is out of range, or the anchors do not stand in it.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = set(archive.namelist())
            metadata_files = [
                name for name in names if name.endswith(".dist-info/METADATA") and name.count("/") == 1
            ]
            if len(metadata_files) != 1:
                raise PatchError(
                    f"{wheel} is no wheel: it has {len(metadata_files)} METADATA files", param=str(wheel)
                )
            metadata = BytesParser().parsebytes(archive.read(metadata_files[0]), headersonly=True)
            name = str(metadata["Name"]).lower().replace("_", "-")

            def read(path: str) -> bytes | None:
                return archive.read(path) if path in names else None

            return [
                _lock(patch, str(metadata["Version"]), read)
                for patch in load_patch_set()
                if patch.distribution == name
            ]
    except (OSError, zipfile.BadZipFile) as error:
        raise PatchError(f"{wheel} cannot be read as a wheel: {error}", param=str(wheel)) from error


def lock_environment(python: Path) -> list[LockRecord]:
    """Return the records for what is installed in an environment, patched or not."""
    patch_set = load_patch_set()
    target = inspect_target(python, {patch.distribution for patch in patch_set})
    records = []
    for patch in patch_set:
        distribution = target.distributions.get(patch.distribution)
        if distribution is None:
            continue
        store = Store(target.prefix, patch.name)
        manifest = store.manifest()
        patched = manifest.files if manifest and manifest.version == distribution.version else {}
        root = distribution.root

        def read(
            path: str,
            root: Path = root,
            patched: dict[str, tuple[str | None, str]] = patched,
            store: Store = store,
        ) -> bytes | None:
            content = read_if_there(root / path)
            before, after = patched.get(path, (None, ""))
            if content is not None and before is not None and sha256(content) == after:
                return store.pristine(path, before)
            return content

        records.append(_lock(patch, distribution.version, read))
    return records


def _lock(patch: Patch, version: str, read: Callable[[str], bytes | None]) -> LockRecord:
    patch.check_version(version)
    # The variant of that very version first; then any other whose anchors stand.
    variants = sorted(patch.variants, key=lambda variant: public_version(version) not in variant.versions)
    refusals = []
    for variant in variants:
        try:
            return LockRecord(
                patch=patch.name,
                distribution=patch.distribution,
                version=version,
                variant=variant.id,
                files=_lock_files(variant, read),
            )
        except PatchError as error:
            refusals.append(f"variant {variant.id}: {error.message}")
    raise PatchError(
        f"patch {patch.name} fits no layout of {patch.distribution} {version}: {'; '.join(refusals)}",
        param=patch.distribution,
    )


def _lock_files(variant: Variant, read: Callable[[str], bytes | None]) -> tuple[LockedFile, ...]:
    locked = []
    for file in variant.files:
        if file.before is None:
            continue
        content = read(file.path)
        if content is None:
            raise PatchError(f"{file.path} is not in it", param=file.path)
        before = sha256(content)
        result = file.rewrite(content)
        after = sha256(result)
        if before == file.before and after != file.after:
            raise PatchError(
                f"{file.path}: the patched file has sha256 {after}, the patch set says {file.after}; the "
                f"patch set is "
                "damaged, reinstall qwen3-tts-service",
                param=file.path,
            )
        known = before == file.before
        locked.append(LockedFile(file.path, before, after, known, unified_diff(file.path, content, result)))
    return tuple(locked)
