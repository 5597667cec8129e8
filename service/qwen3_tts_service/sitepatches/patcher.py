"""Apply, revert and check the patch set in one Python environment.

``apply`` and ``revert`` work out everything in memory first, for all patches, and write only when nothing
is in doubt: exact or refused. Running one of them again changes nothing, and finishes what an interrupted
run began.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import PatchError
from .files import drop_bytecode, read_if_there, remove, remove_unfinished, write_atomically
from .patchset import KnownHashes, Patch, load_patch_set, sha256
from .plan import FilePlan, State, plan_files, refuse_unknown, unified_diff, whole_state
from .record import Drift, scan, updated
from .store import Manifest, Store
from .target import Distribution, Target, inspect_target


@dataclass(frozen=True)
class FileResult:
    """One file of one patch; hashes are sha256, None stands for no file."""

    path: str
    state: State
    before: str | None
    after: str | None
    found: str | None
    changed: bool = False
    diff: str = ""


@dataclass(frozen=True)
class PatchResult:
    """What one patch is, did or would do. ``previous`` is the state that was found."""

    name: str
    distribution: str
    version: str | None
    state: State
    previous: State
    changed: bool = False
    files: tuple[FileResult, ...] = ()
    drift: tuple[Drift, ...] = ()
    message: str = ""


@dataclass(frozen=True)
class Report:
    """Result of one command over all patches."""

    python: Path
    prefix: Path
    patches: tuple[PatchResult, ...]
    changed: bool = field(default=False)


@dataclass(frozen=True)
class _Change:
    """The writes of one patch: path -> new content (None: remove), the old ones beside them."""

    patch: Patch
    distribution: Distribution
    store: Store
    result: PatchResult
    contents: dict[str, bytes | None]
    record: str | None
    manifest: Manifest | None = None
    pristine: Mapping[str, bytes] = field(default_factory=dict)
    forget: bool = False

    @property
    def something_to_do(self) -> bool:
        return bool(self.contents) or self.record is not None or self.forget


def apply(
    python: Path,
    *,
    known: KnownHashes | None = None,
    optional: Collection[str] = (),
    check: bool = False,
) -> Report:
    """Bring every patch to the state "applied"; with ``check`` only say what would change.

    ``optional`` names patches whose distribution may be absent.

    Raises:
        PatchError: a distribution is absent, a version or a file is unknown, or nothing can be written.
    """
    target = _target(python)
    names = {patch.name for patch in load_patch_set()}
    for name in optional:
        if name not in names:
            raise PatchError(
                f"there is no patch {name!r}; there are {', '.join(sorted(names))}", param="optional"
            )

    def prepare(patch: Patch) -> _Change | PatchResult:
        distribution = target.distributions.get(patch.distribution)
        if distribution is None:
            if patch.name not in optional:
                raise PatchError(
                    f"{patch.distribution} is not installed in {target.prefix}, so patch {patch.name} has "
                    f"nothing to "
                    f"work on; install it first, or allow its absence with --optional {patch.name}",
                    param=patch.distribution,
                )
            return _absent(patch)
        return _prepare_apply(patch, distribution, known or KnownHashes(), Store(target.prefix, patch.name))

    return _run(target, prepare, check)


def revert(python: Path, *, check: bool = False) -> Report:
    """Put every patched file back as its wheel brought it; what is not patched stays untouched.

    Raises:
        PatchError: a file is neither patched nor pristine, or its pristine copy is gone.
    """
    target = _target(python)

    def prepare(patch: Patch) -> _Change | PatchResult:
        distribution = target.distributions.get(patch.distribution)
        if distribution is None:
            return _absent(patch)
        return _prepare_revert(patch, distribution, Store(target.prefix, patch.name))

    return _run(target, prepare, check)


def status(python: Path, *, known: KnownHashes | None = None) -> Report:
    """Say what state every patch is in, and compare its distribution with RECORD; nothing is written."""
    target = _target(python)
    results = []
    for patch in load_patch_set():
        distribution = target.distributions.get(patch.distribution)
        if distribution is None:
            results.append(_absent(patch))
            continue
        drift = tuple(scan(distribution.root, distribution.record))
        files: tuple[FileResult, ...] = ()
        message = ""
        try:
            plans = plan_files(patch, distribution, known or KnownHashes(), Store(target.prefix, patch.name))
            state = whole_state(plans)
            files = tuple(_file_result(plan, plan.state) for plan in plans)
            refuse_unknown(patch, distribution, plans)
        except PatchError as error:
            state, message = State.UNKNOWN, error.message
        results.append(
            PatchResult(
                name=patch.name,
                distribution=distribution.name,
                version=distribution.version,
                state=state,
                previous=state,
                files=files,
                drift=drift,
                message=message,
            )
        )
    return Report(python, target.prefix, tuple(results))


def _target(python: Path) -> Target:
    return inspect_target(python, {patch.distribution for patch in load_patch_set()})


def _run(target: Target, prepare: Callable[[Patch], _Change | PatchResult], check: bool) -> Report:
    """Prepare all patches, then write; the second preparation sees what a parallel run has done meanwhile."""
    patch_set = load_patch_set()
    changes = [prepare(patch) for patch in patch_set]
    due = [change for change in changes if isinstance(change, _Change) and change.something_to_do]
    if due and not check:
        with due[0].store.locked():
            changes = [prepare(patch) for patch in patch_set]
            due = [change for change in changes if isinstance(change, _Change) and change.something_to_do]
            for change in due:
                _refuse_read_only(change)
            for change in due:
                _write(change)
    results = tuple(change.result if isinstance(change, _Change) else change for change in changes)
    return Report(target.python, target.prefix, results, changed=any(result.changed for result in results))


def _absent(patch: Patch) -> PatchResult:
    return PatchResult(
        name=patch.name,
        distribution=patch.distribution,
        version=None,
        state=State.ABSENT,
        previous=State.ABSENT,
        message=f"{patch.distribution} is not installed",
    )


def _file_result(
    plan: FilePlan, state: State, new: bytes | None = None, *, changed: bool = False
) -> FileResult:
    diff = unified_diff(plan.path, plan.current, new) if changed else ""
    return FileResult(plan.path, state, plan.before, plan.after, plan.found, changed, diff)


def _prepare_apply(patch: Patch, distribution: Distribution, known: KnownHashes, store: Store) -> _Change:
    plans = plan_files(patch, distribution, known, store)
    refuse_unknown(patch, distribution, plans)
    manifest = store.manifest()
    contents: dict[str, bytes | None] = {}
    pristine: dict[str, bytes] = {}
    files = []
    for plan in plans:
        source = plan.current
        if plan.state is State.SUPERSEDED:
            source = store.pristine(plan.path, plan.before) if plan.before else None
            if source is not None and manifest is not None and manifest.files[plan.path][0] != plan.before:
                raise PatchError(
                    f"{plan.path}: the kept copy is of another build; reinstall {distribution.name}"
                )
        changed = plan.state is not State.APPLIED
        if changed:
            contents[plan.path] = plan.rewrite(source)
            if source is not None and plan.before:
                pristine[plan.path] = source
        files.append(_file_result(plan, State.APPLIED, contents.get(plan.path), changed=changed))
    for path, content in _left_over(plans, manifest, distribution, store):
        contents[path] = content
        current = read_if_there(distribution.root / path)
        diff = unified_diff(path, current, content)
        found = sha256(current) if current is not None else None
        files.append(FileResult(path, State.PRISTINE, found, found, found, True, diff))
    truth = {plan.path: contents.get(plan.path, plan.current) for plan in plans} | contents
    record = _record_change(distribution, truth)
    wanted = Manifest(distribution.version, {plan.path: (plan.before, plan.after) for plan in plans})
    change = _change(patch, distribution, store, State.APPLIED, whole_state(plans), files, contents, record)
    return replace(change, manifest=wanted if contents else None, pristine=pristine)


def _change(
    patch: Patch,
    distribution: Distribution,
    store: Store,
    state: State,
    previous: State,
    files: list[FileResult],
    contents: dict[str, bytes | None],
    record: str | None,
) -> _Change:
    result = PatchResult(
        name=patch.name,
        distribution=distribution.name,
        version=distribution.version,
        state=state,
        previous=previous,
        changed=bool(contents) or record is not None,
        files=tuple(files),
    )
    return _Change(patch, distribution, store, result, contents, record)


def _left_over(
    plans: tuple[FilePlan, ...], manifest: Manifest | None, distribution: Distribution, store: Store
) -> list[tuple[str, bytes | None]]:
    """Files that an earlier patch set changed and this one leaves alone: they go back to pristine."""
    if manifest is None or manifest.version != distribution.version:
        return []
    planned = {plan.path for plan in plans}
    restored: list[tuple[str, bytes | None]] = []
    for path, (before, after) in manifest.files.items():
        current = read_if_there(distribution.root / path)
        if path not in planned and current is not None and sha256(current) == after:
            restored.append((path, store.pristine(path, before) if before else None))
    return restored


def _prepare_revert(patch: Patch, distribution: Distribution, store: Store) -> _Change | PatchResult:
    manifest = store.manifest()
    if manifest is None or manifest.version != distribution.version:
        return _revert_without_copies(patch, distribution, store, forget=manifest is not None)
    contents: dict[str, bytes | None] = {}
    files = []
    # Against the order of writing: what the others import is taken away last.
    for path, (before, after) in reversed(manifest.files.items()):
        current = read_if_there(distribution.root / path)
        found = None if current is None else sha256(current)
        if found not in (before, after):
            raise PatchError(
                f"{distribution.root / path} was changed since it was patched: found sha256 "
                f"{found or '(no file)'}, "
                f"expected {after} (patched) or {before or '(no file)'} (pristine). Way out: reinstall "
                f"{distribution.name} with `pip install --force-reinstall --no-deps`",
                param=path,
            )
        changed = found != before
        if changed:
            contents[path] = store.pristine(path, before) if before else None
        diff = unified_diff(path, current, contents[path]) if changed else ""
        files.append(FileResult(path, State.PRISTINE, before, after, found, changed, diff))
    truth = {path: contents.get(path, read_if_there(distribution.root / path)) for path in manifest.files}
    record = _record_change(distribution, truth)
    previous = State.APPLIED if len(contents) == len(files) else State.PARTIAL
    change = _change(patch, distribution, store, State.PRISTINE, previous, files, contents, record)
    return replace(change, forget=True)


def _revert_without_copies(
    patch: Patch, distribution: Distribution, store: Store, *, forget: bool
) -> _Change | PatchResult:
    """Nothing was recorded for this version: fine when nothing is patched, an error otherwise."""
    for variant in patch.variants:
        for file in variant.files:
            current = read_if_there(distribution.root / file.path)
            if current is not None and sha256(current) == file.after:
                raise PatchError(
                    f"{distribution.root / file.path} is patched, but its pristine copy is not in this "
                    f"environment; "
                    f"reinstall {distribution.name} {distribution.version} with `pip install "
                    f"--force-reinstall "
                    "--no-deps`",
                    param=file.path,
                )
    result = PatchResult(
        name=patch.name,
        distribution=distribution.name,
        version=distribution.version,
        state=State.PRISTINE,
        previous=State.PRISTINE,
    )
    return _Change(patch, distribution, store, result, {}, None, forget=forget) if forget else result


def _record_change(distribution: Distribution, contents: Mapping[str, bytes | None]) -> str | None:
    """Return the new RECORD, or None when it already tells the truth about ``contents``."""
    current = (read_if_there(distribution.record) or b"").decode("utf-8")
    new = updated(current, contents)
    return new if new != current else None


def _refuse_read_only(change: _Change) -> None:
    """Find out before the first write that a later one would fail: all patches or none."""
    root = change.distribution.root
    folders = {(root / path).parent for path in change.contents} | {change.distribution.record.parent}
    for folder in sorted(folders):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PatchError(
                f"{folder} is not writable; run as the owner of the environment, on a file system that is "
                "mounted for writing; nothing has been changed",
                param=str(folder),
            )


def _write(change: _Change) -> None:
    """Write one patch: copies and manifest, files in the order of the patch set, RECORD last."""
    root, record = change.distribution.root, change.distribution.record
    for file in change.result.files:
        remove_unfinished(root / file.path)
    remove_unfinished(record)
    if change.manifest is not None:
        change.store.save(change.manifest, dict(change.pristine), like=record)
    for path, content in change.contents.items():
        location = root / path
        # Before the source changes: a crash in between leaves no compiled file of the old text.
        drop_bytecode(location)
        if content is None:
            remove(location)
        else:
            like = location if location.exists() else location.parent / "__init__.py"
            write_atomically(location, content, like=like)
    if change.record is not None:
        write_atomically(record, change.record.encode("utf-8"), like=record)
    if change.forget:
        change.store.forget()
