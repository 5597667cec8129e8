"""The data: every patch says why and until when, and its hashes are those of its own edits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from qwen3_tts_service.errors import PatchError
from qwen3_tts_service.sitepatches.patchset import (
    Edit,
    KnownHashes,
    PatchedFile,
    digest,
    load_known_hashes,
    load_patch_set,
    sha256,
    version_in_range,
)


@pytest.mark.parametrize("patch", load_patch_set(), ids=lambda patch: patch.name)
def test_patch_explains_itself(patch: object) -> None:
    for field in ("reason", "removal"):
        assert len(getattr(patch, field).split()) > 10
    assert patch.link.startswith("https://")
    assert patch.known_versions
    for version in patch.known_versions:
        patch.check_version(version)
    assert len(set(patch.known_versions)) == len(patch.known_versions)


def test_added_files_have_the_hash_that_is_written_down() -> None:
    added = [
        file
        for patch in load_patch_set()
        for variant in patch.variants
        for file in variant.files
        if file.added is not None
    ]
    assert added
    for file in added:
        assert sha256(file.rewrite(None)) == file.after


@pytest.mark.parametrize(
    ("version", "inside"),
    [
        ("2.8.0", True),
        ("2.9.1+rocm6.4", True),
        ("2.11.0", True),
        ("2.7.9", False),
        ("2.12.0", False),
        ("2.12", False),
        ("3.0.0", False),
        ("2.9.0rc1", False),
        ("2.9.0.dev20250101", False),
    ],
)
def test_version_range(version: str, inside: bool) -> None:
    assert version_in_range(version, ">=2.8.0,<2.12") is inside


@pytest.mark.parametrize("text", ["", "anchor anchor\n"])
def test_anchor_must_stand_exactly_once(text: str) -> None:
    file = PatchedFile("a.py", "0" * 64, "0" * 64, (Edit("one", "anchor", "x = 1"),))
    with pytest.raises(PatchError, match=r"stands [02] times instead of once"):
        file.rewrite(text.encode())


def test_result_must_be_python() -> None:
    file = PatchedFile("a.py", "0" * 64, "0" * 64, (Edit("one", "anchor", "def ("),))
    with pytest.raises(PatchError, match="is no Python"):
        file.rewrite(b"anchor\n")


def test_digest_follows_the_records() -> None:
    records = ((("p", "1", "a.py"), ("0" * 64, "1" * 64, "v")),)
    other = KnownHashes(((records[0][0], ("0" * 64, "2" * 64, "v")),))
    assert digest() == digest(KnownHashes())
    assert len({digest(), digest(KnownHashes(records)), digest(other)}) == 3


@pytest.mark.parametrize("text", ["", "[1]", '{"records": [{"patch": "x"}]}', '{"other": []}'])
def test_broken_records_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "known.json"
    path.write_text(text)
    with pytest.raises(PatchError, match="holds no known hashes"):
        load_known_hashes(path)


def test_patches_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_patch_set()[0].name = "other"
