"""Locks: what they may contain, which wheels fit, and what a release is named after."""

from __future__ import annotations

import pytest
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename
from wheel_files import ROOT

from locks import PYTHONS, RUNTIME_LOCKS, TOOL_LOCKS, release_lock

ALL_LOCKS = sorted([*RUNTIME_LOCKS.glob("*.txt"), *TOOL_LOCKS.glob("*.txt")])
DIGEST = "a" * 64


def test_there_is_a_lock_for_every_group_and_an_input_for_every_lock() -> None:
    groups = release_lock.runtimes(RUNTIME_LOCKS)["groups"]
    assert {path.stem for path in RUNTIME_LOCKS.glob("*.txt")} == set(groups)
    assert all(path.with_suffix(".in").is_file() for path in ALL_LOCKS)


@pytest.mark.parametrize("path", ALL_LOCKS, ids=lambda path: path.stem)
def test_a_lock_is_pins_and_hashes_and_names_no_index(path) -> None:
    text = path.read_text(encoding="utf-8")
    assert release_lock.parse(text, path.name)
    assert "://" not in text
    assert not any(line.startswith("-") for line in text.splitlines())


@pytest.mark.parametrize("name", ["gradio", "torchvision"])
def test_what_must_stay_out_is_in_no_lock(name: str) -> None:
    for path in ALL_LOCKS:
        pins = release_lock.parse(path.read_text(encoding="utf-8"), path.name)
        assert name not in {release_lock.canonical(pin.name) for pin in pins}


@pytest.mark.parametrize("path", ALL_LOCKS, ids=lambda path: path.stem)
def test_writing_a_parsed_lock_again_gives_the_same_lock(path) -> None:
    pins = release_lock.parse(path.read_text(encoding="utf-8"), path.name)
    assert release_lock.parse(release_lock.render(pins)) == pins


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://example.org/simple",
        "--extra-index-url https://example.org/simple",
        "--find-links /srv",
        "torch>=2.0",
        "torch @ https://example.org/torch.whl",
        "-r other.txt",
    ],
)
def test_anything_but_a_pin_is_refused(line: str) -> None:
    with pytest.raises(release_lock.LockError, match="neither a pinned requirement nor a hash"):
        release_lock.parse(line)


def test_a_hash_without_a_wheel_name_is_refused() -> None:
    with pytest.raises(release_lock.LockError, match="0 wheel names and 1 hashes"):
        release_lock.parse(f"click==8 \\\n    --hash=sha256:{DIGEST}")


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("glibc", ["2.17", "2.28", "2.36"])
def test_tags_are_judged_as_packaging_judges_them(python: str, glibc: str) -> None:
    minor, level = int(python.split(".")[1]), int(glibc.split(".")[1])
    platforms = [f"manylinux_2_{number}_x86_64" for number in range(level, 4, -1)]
    platforms += [
        name
        for name, needs in (("manylinux1", 5), ("manylinux2010", 12), ("manylinux2014", 17))
        if needs <= level
        for name in [f"{name}_x86_64"]
    ]
    platforms.append("linux_x86_64")
    tags = set(cpython_tags((3, minor), platforms=platforms))
    tags |= set(compatible_tags((3, minor), interpreter=f"cp3{minor}", platforms=platforms))
    wheels = {
        file for path in ALL_LOCKS for pin in release_lock.parse(path.read_text()) for file in pin.wheels
    }
    extra = {"a-1-cp312-cp312-win_amd64.whl", "a-1-cp312-abi3-linux_x86_64.whl", "a-1-py2-none-any.whl"}
    for wheel in wheels | extra:
        expected = bool(tags & set(parse_wheel_filename(wheel)[3]))
        assert release_lock.fits(wheel, python, glibc) == expected, wheel


@pytest.mark.parametrize("python", PYTHONS)
def test_the_cuda_runtime_is_complete_for_every_python(python: str) -> None:
    assert release_lock.plan(str(RUNTIME_LOCKS), "cuda", python, "2.28", {})["incomplete"] == []


def test_the_cpu_runtime_is_complete_where_its_wheel_could_be_hashed() -> None:
    assert release_lock.plan(str(RUNTIME_LOCKS), "cpu", "3.11", "2.36", {})["incomplete"] == []
    later = release_lock.plan(str(RUNTIME_LOCKS), "cpu", "3.12", "2.36", {})
    assert later["incomplete"] == ["torch==2.13.0+cpu"]


@pytest.mark.parametrize(
    ("runtime", "release", "count"),
    [("rocm6.4", "+rocm6.4", 2), ("rocm6.4-gfx1151", "+rocm6.4.4", 3), ("rocm7", "+rocm7.2", 2)],
)
def test_a_rocm_runtime_says_what_it_lacks(runtime: str, release: str, count: int) -> None:
    incomplete = release_lock.plan(str(RUNTIME_LOCKS), runtime, "3.12", "2.36", {})["incomplete"]
    assert len(incomplete) == 3
    assert sum(release in pin for pin in incomplete) == count


def test_a_requirement_for_later_pythons_is_left_out_of_earlier_ones() -> None:
    names = {
        python: {
            release_lock.canonical(pin.name)
            for group in release_lock.plan(str(RUNTIME_LOCKS), "cuda", python, "2.36", {})["groups"]
            for pin in release_lock.parse(group["lock"])
        }
        for python in ("3.12", "3.13")
    }
    assert names["3.13"] - names["3.12"] == {
        "audioop-lts",
        "standard-aifc",
        "standard-chunk",
        "standard-sunau",
    }


def test_a_completion_that_contradicts_the_lock_is_refused() -> None:
    wheel = "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"
    with pytest.raises(release_lock.LockError, match="the inventory says"):
        release_lock.plan(str(RUNTIME_LOCKS), "cpu", "3.11", "2.36", {"cpu": {"wheels": {wheel: DIGEST}}})


def test_a_completion_of_another_version_completes_nothing() -> None:
    completed = {"cpu": {"wheels": {"torch-2.12.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl": DIGEST}}}
    assert release_lock.plan(str(RUNTIME_LOCKS), "cpu", "3.12", "2.36", completed)["incomplete"]


def test_an_unknown_runtime_is_refused_with_the_known_ones() -> None:
    with pytest.raises(release_lock.LockError, match=r"it has: rocm6\.4, rocm6\.4-gfx1151, rocm7, cuda, cpu"):
        release_lock.plan(str(RUNTIME_LOCKS), "rocm5", "3.12", "2.36", {})


def test_the_release_is_named_after_all_its_parts() -> None:
    parts = {"locks": ["a"], "patch_set": "b", "python": "CPython 3.12.3", "service": "c"}
    names = {release_lock.release_id(parts)}
    for key in parts:
        names.add(release_lock.release_id({**parts, key: "other"}))
    assert len(names) == 5
    assert release_lock.release_id(dict(reversed(parts.items()))) in names


def test_the_stand_in_set_is_what_its_tool_writes() -> None:
    import stand_in_lock

    folder = ROOT / "molecule" / "stand-in-lock"
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == stand_in_lock.files()
