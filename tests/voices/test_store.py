"""Voices outlive the process, whatever happens to it or to the disk while they are written."""

from __future__ import annotations

import concurrent.futures
import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_tts_service.errors import (
    InvalidValue,
    NoSuchVoice,
    NoVoiceDirectory,
    StorageFault,
    StorageFull,
)
from qwen3_tts_service.speech.request import VoicePrompt
from qwen3_tts_service.voices import files
from qwen3_tts_service.voices.saved import SavedVoice

from .voices import assert_same, store, voice


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_they_are_there_again_to_the_last_bit(tmp_path: Path) -> None:
    first = store(tmp_path / "state" / "voices")
    ada, bob = voice("Ada", 1), voice("Bob", 2, text=None, language=None)
    designed = voice("Cyd", 3, kind="designed", consent=None)
    for kept in (ada, bob, designed):
        first.add(kept)
    first.rename(bob.words.id, "Róbert")
    again = store(tmp_path / "state" / "voices")
    assert [kept.words.name for kept in again.all()] == ["Ada", "Róbert", "Cyd"]
    assert_same(again.get(ada.words.id), ada)
    assert_same(again.get(designed.words.id), designed)
    assert_same(again.get(bob.words.id), first.get(bob.words.id))
    assert again.get(bob.words.id).prompt.codes is None


def test_nobody_else_may_read_them(tmp_path: Path) -> None:
    kept = voice()
    store(tmp_path / "voices").add(kept)
    for directory in (tmp_path / "voices", tmp_path / "voices" / kept.words.id):
        assert directory.stat().st_mode & 0o077 == 0


def test_a_voice_that_is_removed_is_nowhere(tmp_path: Path) -> None:
    removed: list[VoicePrompt] = []
    kept = store(tmp_path, on_removed=removed.append)
    ada = voice()
    kept.add(ada)
    kept.remove(ada.words.id)
    assert removed == [ada.prompt]
    assert (kept.all(), kept.find("Ada"), names(tmp_path)) == ([], None, [])
    for ask in (kept.get, kept.remove):
        with pytest.raises(NoSuchVoice):
            ask(ada.words.id)
    assert store(tmp_path).all() == []


def test_one_whose_directory_an_operator_removed_can_be_removed(tmp_path: Path) -> None:
    kept = store(tmp_path)
    ada = voice()
    kept.add(ada)
    (tmp_path / ada.words.id).rename(tmp_path.parent / "elsewhere")
    kept.remove(ada.words.id)
    assert kept.all() == []


def test_it_is_found_by_id_and_by_name_in_any_case(tmp_path: Path) -> None:
    kept = store(tmp_path)
    zoe = voice("Zoë Straße")
    kept.add(zoe)
    for name in (zoe.words.id, "Zoë Straße", "zoë strasse", "ZOE\u0308 STRASSE"):
        assert kept.find(name) is zoe
    assert kept.find("zoe strasse") is None


def test_a_name_belongs_to_one_voice(tmp_path: Path) -> None:
    kept = store(tmp_path)
    ada, bob = voice("Ada"), voice("Bob")
    kept.add(ada)
    kept.add(bob)
    for take in (lambda: kept.add(voice("ADA")), lambda: kept.rename(bob.words.id, "ada")):
        with pytest.raises(InvalidValue, match=ada.words.id):
            take()
    assert kept.rename(ada.words.id, "ADA").words.name == "ADA"


def test_of_many_who_want_a_name_at_once_one_gets_it(tmp_path: Path) -> None:
    kept = store(tmp_path, most_voices=100)
    together = threading.Barrier(8)

    def take(number: int) -> bool:
        together.wait(10)
        try:
            kept.add(voice("Ada", number))
        except InvalidValue:
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(take, range(8))) == [False] * 7 + [True]
    assert len(store(tmp_path).all()) == 1


@pytest.mark.parametrize(
    "name", ["", "  ", "a" * 65, "a\nb", "a\u202eb", "a\u200bb", "voice_0123456789abcdef"]
)
def test_some_names_are_none(tmp_path: Path, name: str) -> None:
    kept = store(tmp_path)
    ada = voice()
    kept.add(ada)
    with pytest.raises(InvalidValue) as caught:
        kept.rename(ada.words.id, name)
    assert caught.value.param == "name"
    assert kept.get(ada.words.id).words.name == "Ada"


def test_there_is_a_limit_to_how_many_and_to_how_large(tmp_path: Path) -> None:
    few = store(tmp_path / "few", most_voices=2)
    few.add(voice("Ada"))
    few.add(voice("Bob"))
    for refuse in (lambda: few.add(voice("Cyd")), lambda: few.check_room("Cyd")):
        with pytest.raises(StorageFull, match="`max_voices`"):
            refuse()
    # What is kept can be exported into that many bytes, so that it can be sent back.
    small = store(tmp_path / "small", most_bytes=13_000)
    small.add(voice("Ada"))
    small.add(voice("Bob"))
    assert len(small.exported()) <= 13_000
    with pytest.raises(StorageFull, match="`max_body_bytes`"):
        small.add(voice("Cyd"))
    assert len(names(tmp_path / "small")) == 2
    store(tmp_path / "other", most_bytes=13_000).import_(small.exported(), lambda name: None)


def test_without_a_place_there_are_none_and_it_is_said_why() -> None:
    nowhere = store(None)
    assert (nowhere.all(), nowhere.find("Ada")) == ([], None)
    for ask in (lambda: nowhere.add(voice()), lambda: nowhere.check_room("Ada")):
        with pytest.raises(NoVoiceDirectory, match="`voices_directory`"):
            ask()


def _adding(kept: Any, _there: SavedVoice) -> None:
    kept.add(voice("Bob", 2))


def _renaming(kept: Any, there: SavedVoice) -> None:
    kept.rename(there.words.id, "Eve")


def _importing(kept: Any, _there: SavedVoice) -> None:
    other = store(None)
    other._voices = {one.words.id: one for one in (voice("Bob", 2), voice("Cyd", 3))}
    kept.import_(other.exported(), lambda name: None)


CHANGES = pytest.mark.parametrize("change", [_adding, _renaming, _importing])


@CHANGES
def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Whichever write it is that finds no room."""
    kept = store(tmp_path)
    ada = voice()
    kept.add(ada)
    real, calls, fail_at = files._write, 0, 1

    def write(file: Path, content: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == fail_at:
            file.write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        real(file, content)

    monkeypatch.setattr(files, "_write", write)
    while True:
        calls = 0
        try:
            change(kept, ada)
            break
        except StorageFull as error:
            message = error.message
        assert "No space left" in message
        assert str(tmp_path) not in message
        assert [one.words for one in kept.all()] == [ada.words]
        assert names(tmp_path) == [ada.words.id]
        assert names(tmp_path / ada.words.id) == ["prompt.safetensors", "voice.json"]
        [again] = store(tmp_path).all()
        assert_same(again, ada)
        fail_at += 1
    assert fail_at > 1
    assert [one.words for one in store(tmp_path).all()] != [ada.words], "in the end it was changed"


def test_another_fault_of_the_disk_is_another_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(file: Path, content: bytes) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(file))

    monkeypatch.setattr(files, "_write", write)
    with pytest.raises(StorageFault, match="Read-only file system") as caught:
        store(tmp_path).add(voice())
    assert str(tmp_path) not in caught.value.message
    assert names(tmp_path) == []


def test_the_kernel_refuses_a_write(tmp_path: Path) -> None:
    """A real one, in a process whose files may not grow."""
    program = f"""
import resource
from pathlib import Path
from qwen3_tts_service.errors import StorageFull
from voices.voices import store, voice
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    store(Path({str(tmp_path)!r})).add(voice())
except StorageFull as error:
    print(error.message)
"""
    paths = [str(Path(files.__file__).parents[2]), str(Path(__file__).parents[1])]
    told = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "File too large" in told.stdout
    assert names(tmp_path) == []


@CHANGES
def test_a_process_that_dies_while_it_writes_leaves_all_or_nothing(tmp_path: Path, change: Any) -> None:
    """It ends at each of its calls that settle something on the disk, one after the other."""
    survived = False
    for last in range(1, 20):
        directory = tmp_path / str(last)
        kept = store(directory)
        ada = voice()
        kept.add(ada)
        child = os.fork()
        if child == 0:
            _die_at_fsync(last)
            change(kept, ada)
            os._exit(7)
        _, status = os.waitpid(child, 0)
        survived = os.waitstatus_to_exitcode(status) == 7
        again = store(directory)
        found = {one.words.name for one in again.all()}
        assert found in ({"Ada"}, {"Eve"}, {"Ada", "Bob"}, {"Ada", "Bob", "Cyd"})
        # What was begun is swept away, and nothing is damaged.
        assert names(directory) == sorted(one.words.id for one in again.all())
        assert_same_prompt(again.get(ada.words.id), ada)
        if survived:
            assert found != {"Ada"}
            break
    assert survived


def _die_at_fsync(last: int) -> None:
    real, calls = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == last:
            os._exit(0)
        real(descriptor)

    os.fsync = fsync


def assert_same_prompt(one: SavedVoice, other: SavedVoice) -> None:
    np.testing.assert_array_equal(one.prompt.speaker_embedding, other.prompt.speaker_embedding)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def _words(**changes: object) -> Any:
    def change(file: Path) -> None:
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, **changes}))

    return change


@pytest.mark.parametrize(
    ("name", "damage", "word"),
    [
        ("prompt.safetensors", _cut, "safetensors"),
        ("prompt.safetensors", Path.unlink, "No such file"),
        ("prompt.safetensors", lambda file: file.write_bytes(b"\x80\x04" + b"." * 100), "safetensors"),
        ("prompt.safetensors", lambda file: os.truncate(file, 2 << 20), "bytes"),
        ("voice.json", _cut, "JSON"),
        ("voice.json", _words(id="voice_0123456789abcdef"), "holds the voice"),
        ("voice.json", _words(ref_text=None), "tensors"),
        ("voice.json", _words(consent=None), "consent"),
        ("voice.json", _words(more=1), "more"),
    ],
)
def test_one_that_is_damaged_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: Any, word: str
) -> None:
    kept = store(tmp_path)
    ada, bob = voice("Ada"), voice("Bob")
    kept.add(ada)
    kept.add(bob)
    backup = kept.exported()
    damage(tmp_path / ada.words.id / name)
    again = store(tmp_path)
    assert [one.words for one in again.all()] == [bob.words]
    assert ada.words.id in caplog.text
    assert word in caplog.text
    # The backup is its cure.
    assert again.import_(backup, lambda name: None).added == (ada.words.id,)
    assert_same(store(tmp_path).get(ada.words.id), ada)
