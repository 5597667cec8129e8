"""Where wheels come from: one source at a time, whatever the operator's pip configuration says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from wheel_files import ROOT, sha256, write_wheel

import pip_sources
import wheels
from locks import Pin, render

PURE = "qwen3_tts_probe-1.0-py3-none-any.whl"


def group(path: Path) -> dict[str, str]:
    return {
        "name": "probe",
        "index": "default",
        "lock": render([Pin("qwen3-tts-probe", "1.0", {path.name: sha256(path)})]),
    }


def operator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **options: str) -> None:
    """Make pip's own configuration say these things."""
    for name in list(pip_sources.os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    file = tmp_path / "pip.conf"
    file.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in options.items()))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))


def test_the_line_reader_reads_what_yaml_reads() -> None:
    defaults = yaml.safe_load(pip_sources.DEFAULTS.read_text(encoding="utf-8"))
    assert pip_sources.indexes() == defaults["tts_runtime_indexes"]


def test_the_public_indexes_stand_in_one_file_only() -> None:
    hosts = {entry["url"].split("/")[2] for entry in pip_sources.indexes().values()}
    places = [
        ROOT / name
        for name in ("roles", "playbooks", "tools", "molecule", "service", "inventory.example", "tests")
    ]
    found = {
        path
        for place in places
        for path in place.rglob("*")
        if path.suffix in {".py", ".yml", ".txt", ".in", ".json", ".j2", ".toml"}
        and any(host in path.read_text(encoding="utf-8") for host in hosts)
    }
    assert found == {pip_sources.DEFAULTS}


@pytest.mark.parametrize("index", ["default", "pytorch-cpu", "amd-rocm6.4.4"])
def test_a_command_names_at_most_one_source(
    index: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    operator(monkeypatch, tmp_path, **{"extra-index-url": "https://evil.example/simple", "timeout": "5"})
    arguments = pip_sources.index_arguments(index)
    assert sum(one.startswith(("--index-url", "--find-links")) for one in arguments) <= 1
    assert not any("evil" in one for one in arguments)
    assert ("--no-index" in arguments) == (index == "amd-rocm6.4.4")
    assert "--timeout=5" in arguments


def test_a_foreign_index_in_the_operators_configuration_is_not_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, serve_index: Callable[[list[Path]], str]
) -> None:
    """Before: pip takes 2.0 from the second index. With our arguments it never sees it."""
    good = write_wheel(tmp_path / "good", PURE, {"probe.py": b"good = True\n"})
    evil = write_wheel(tmp_path / "evil", PURE.replace("1.0", "2.0"), {"probe.py": b"good = False\n"})
    operator(
        monkeypatch, tmp_path, **{"index-url": serve_index([good]), "extra-index-url": serve_index([evil])}
    )
    both, one = tmp_path / "both", tmp_path / "one"
    pip = [pip_sources.sys.executable, "-m", "pip", "download", "-q", "--no-deps", "qwen3-tts-probe"]
    pip_sources.subprocess.run([*pip, "-d", str(both)], check=True)
    assert [path.name for path in both.iterdir()] == [evil.name]
    arguments = pip_sources.index_arguments("default")
    pip_sources.pip("download", "-q", "--no-deps", "qwen3-tts-probe", "-d", str(one), *arguments)
    assert [path.name for path in one.iterdir()] == [good.name]


def test_the_cache_is_filled_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, serve_index: Callable[[list[Path]], str]
) -> None:
    wheel = write_wheel(tmp_path / "made", PURE, {"probe.py": b""})
    operator(monkeypatch, tmp_path, **{"index-url": serve_index([wheel])})
    cache = tmp_path / "cache"
    cache.mkdir()
    assert wheels.fill(group(wheel), "3.11", cache) == 1
    operator(monkeypatch, tmp_path, **{"index-url": "http://127.0.0.1:9/"})
    assert wheels.fill(group(wheel), "3.11", cache) == 0


def test_a_file_of_the_operators_folder_is_taken_only_with_the_locked_hash(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheel = write_wheel(tmp_path / "made", PURE, {"probe.py": b""})
    wanted = group(wheel)
    operator(
        monkeypatch,
        tmp_path,
        **{"find-links": str(wheel.parent), "index-url": "http://127.0.0.1:9/", "retries": "0"},
    )
    cache = tmp_path / "cache"
    cache.mkdir()
    assert wheels.fill(wanted, "3.11", cache) == 0
    assert sha256(cache / wheel.name) == sha256(wheel)
    (cache / wheel.name).unlink()
    write_wheel(wheel.parent, PURE, {"probe.py": b"changed = True\n"})
    with pytest.raises(
        pip_sources.SourceError, match=r"could not be fetched from the index 'default'.*Ways out"
    ):
        wheels.fill(wanted, "3.11", cache)


def test_a_wheel_with_another_hash_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, serve_index: Callable[[list[Path]], str]
) -> None:
    wheel = write_wheel(tmp_path / "made", PURE, {"probe.py": b""})
    wanted = group(wheel)
    tampered = write_wheel(tmp_path / "tampered", PURE, {"probe.py": b"tampered = True\n"})
    operator(monkeypatch, tmp_path, **{"index-url": serve_index([tampered])})
    cache = tmp_path / "cache"
    cache.mkdir()
    with pytest.raises(pip_sources.SourceError, match="DO NOT MATCH THE HASHES"):
        wheels.fill(wanted, "3.11", cache)
    assert not list(cache.glob("*.whl"))
