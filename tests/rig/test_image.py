"""An image is named by its recipe, and one that exists is complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from rig import image
from rig.errors import RigError

MIRROR, SECURITY = "QWEN3_TTS_DEBIAN_MIRROR", "QWEN3_TTS_DEBIAN_SECURITY_MIRROR"


@pytest.fixture(autouse=True)
def default_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MIRROR, raising=False)
    monkeypatch.delenv(SECURITY, raising=False)


def test_the_same_recipe_has_the_same_name() -> None:
    assert image.recipe_digest("bookworm") == image.recipe_digest("bookworm")
    assert image.recipe_digest("bookworm") != image.recipe_digest("trixie")


def test_another_package_hook_or_mirror_is_another_image(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {image.recipe_digest("bookworm")}
    monkeypatch.setenv(MIRROR, "http://mirror.example/debian")
    monkeypatch.setenv(SECURITY, "http://mirror.example/security")
    seen.add(image.recipe_digest("bookworm"))
    monkeypatch.setattr(image, "OPTIONS", (*image.OPTIONS, "--include=sudo"))
    seen.add(image.recipe_digest("bookworm"))
    assert len(seen) == 3


def test_a_trusted_certificate_is_part_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "LOCAL_CERTIFICATES", tmp_path)
    without = image.recipe_digest("bookworm")
    (tmp_path / "office.crt").write_text("one")
    first = image.recipe_digest("bookworm")
    (tmp_path / "office.crt").write_text("two")
    assert len({without, first, image.recipe_digest("bookworm")}) == 3


def test_without_a_mirror_mmdebstrap_chooses_its_own() -> None:
    assert image.sources("bookworm") == []


def test_a_mirror_serves_updates_too_and_security_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MIRROR, "http://mirror.example/debian")
    with pytest.raises(RigError, match=SECURITY):
        image.sources("bookworm")
    monkeypatch.setenv(SECURITY, "http://mirror.example/security")
    assert image.sources("bookworm") == [
        "deb http://mirror.example/debian bookworm main",
        "deb http://mirror.example/debian bookworm-updates main",
        "deb http://mirror.example/security bookworm-security main",
    ]


def test_an_unknown_suite_names_the_known_ones() -> None:
    with pytest.raises(RigError, match="bookworm, trixie"):
        image.ensure("buster")


@pytest.fixture
def fake_mmdebstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An mmdebstrap that counts its runs and fails when ``broken`` exists; the last argument is the target."""
    tool = tmp_path / "bin" / "mmdebstrap"
    tool.parent.mkdir()
    tool.write_text(
        f'#!/bin/sh\necho run >> {tmp_path}/runs\n[ -e {tmp_path}/broken ] && {{ echo "no route" >&2; exit 25; }}\n'
        'for target; do :; done; echo built > "$target/os-release"\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    monkeypatch.setenv("QWEN3_TTS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_an_image_is_built_once(fake_mmdebstrap: Path) -> None:
    first = image.ensure("bookworm")
    assert image.ensure("bookworm") == first
    assert (first / "os-release").read_text() == "built\n"
    assert first.stat().st_mode & 0o777 == 0o755
    assert (fake_mmdebstrap / "runs").read_text() == "run\n"


def test_a_failed_build_leaves_nothing_and_says_why(fake_mmdebstrap: Path) -> None:
    (fake_mmdebstrap / "broken").touch()
    with pytest.raises(RigError, match="no route"):
        image.ensure("bookworm")
    assert [one.name for one in (fake_mmdebstrap / "cache/rig/images").iterdir()] == ["bookworm.lock"]
    (fake_mmdebstrap / "broken").unlink()
    assert image.ensure("bookworm").is_dir()


def test_the_rest_of_a_killed_build_is_removed_by_the_next(fake_mmdebstrap: Path) -> None:
    images = fake_mmdebstrap / "cache/rig/images"
    rest = images / ".building-bookworm-killed"
    rest.mkdir(parents=True)
    (rest / "half").touch()
    image.ensure("bookworm")
    assert not rest.exists()
