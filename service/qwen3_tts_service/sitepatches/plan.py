"""What is there and what a patch would make of it: hashes compared, edits made in memory, nothing written."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..errors import PatchError
from .files import read_if_there
from .patchset import KnownHashes, Patch, PatchedFile, Variant, public_version, sha256
from .store import Store
from .target import Distribution


class State(StrEnum):
    """State of a file or of a whole patch."""

    PRISTINE = "pristine"
    APPLIED = "applied"
    SUPERSEDED = "superseded"  # patched by an earlier patch set; its pristine copy is kept
    PARTIAL = "partial"  # files of one patch in different states
    UNKNOWN = "unknown"
    ABSENT = "absent"  # the distribution is not installed


@dataclass(frozen=True)
class FilePlan:
    """One file: what is there (None: nothing), what is expected, what it would become."""

    file: PatchedFile
    location: Path
    current: bytes | None
    before: str | None
    after: str
    state: State

    @property
    def path(self) -> str:
        return self.file.path

    @property
    def found(self) -> str | None:
        return None if self.current is None else sha256(self.current)

    def rewrite(self, content: bytes | None) -> bytes:
        """Return the patched content of ``content``, whose sha256 must come out as recorded."""
        result = self.file.rewrite(content)
        if sha256(result) != self.after:
            raise PatchError(
                f"{self.path}: the patched file has sha256 {sha256(result)}, the patch set says "
                f"{self.after}; "
                "the patch set is damaged, reinstall qwen3-tts-service",
                param=self.path,
            )
        return result


def choose_variant(patch: Patch, version: str, known: KnownHashes) -> Variant:
    """Return the variant for an installed version.

    Raises:
        PatchError: the version is outside the patch's range, or no variant and no record knows it.
    """
    patch.check_version(version)
    wanted = known.variant_id(patch.name, version)
    for variant in patch.variants:
        if variant.id == wanted or (wanted is None and public_version(version) in variant.versions):
            return variant
    raise PatchError(
        f"patch {patch.name} does not know {patch.distribution} {version}; known are "
        f"{', '.join(patch.known_versions)}. Way out: `qwen3-tts patch lock WHEEL --json` on that wheel, "
        f"review the "
        "diff, and pass the records with --known-hashes",
        param=patch.distribution,
    )


def plan_files(
    patch: Patch, distribution: Distribution, known: KnownHashes, store: Store
) -> tuple[FilePlan, ...]:
    """Compare every file of ``patch`` with what is installed."""
    variant = choose_variant(patch, distribution.version, known)
    manifest = store.manifest()
    patched_earlier = manifest.files if manifest and manifest.version == distribution.version else {}
    plans = []
    for file in variant.files:
        location = distribution.root / file.path
        current = read_if_there(location)
        found = None if current is None else sha256(current)
        record = known.find(patch.name, distribution.version, file.path) if file.before else None
        before, after = file.before, file.after
        if record and found in record[:2]:
            before, after = record[:2]
        if found == after:
            state = State.APPLIED
        elif found == before:
            state = State.PRISTINE
        elif found is not None and found == patched_earlier.get(file.path, (None, None))[1]:
            state = State.SUPERSEDED
        else:
            state = State.UNKNOWN
        plans.append(FilePlan(file, location, current, before, after, state))
    return tuple(plans)


def whole_state(plans: tuple[FilePlan, ...]) -> State:
    """Return the state of a patch from the states of its files."""
    states = {plan.state for plan in plans}
    if State.UNKNOWN in states:
        return State.UNKNOWN
    if State.SUPERSEDED in states:
        return State.SUPERSEDED
    return states.pop() if len(states) == 1 else State.PARTIAL


def refuse_unknown(patch: Patch, distribution: Distribution, plans: tuple[FilePlan, ...]) -> None:
    """Raise PatchError when a file is neither pristine nor patched, naming the hashes and the way out."""
    for plan in plans:
        if plan.state is State.UNKNOWN:
            raise PatchError(
                f"{plan.location} is not a file that patch {patch.name} knows: found sha256 "
                f"{plan.found or '(no file)'}, expected {plan.before or '(no file)'} (before) or "
                f"{plan.after} "
                f"(after) for {distribution.name} {distribution.version}. Way out: reinstall it with `pip "
                f"install "
                "--force-reinstall --no-deps`; for another build of the same version run `qwen3-tts patch "
                "lock "
                "WHEEL --json`, review the diff, and pass the records with --known-hashes",
                param=plan.path,
            )


def unified_diff(path: str, before: bytes | None, after: bytes | None) -> str:
    """Return the difference as ``diff -u`` prints it; None stands for no file."""
    texts = [
        (content or b"").decode("utf-8", "replace").splitlines(keepends=True) for content in (before, after)
    ]
    names = [
        f"a/{path}" if before is not None else "/dev/null",
        f"b/{path}" if after is not None else "/dev/null",
    ]
    return "".join(difflib.unified_diff(texts[0], texts[1], names[0], names[1]))
