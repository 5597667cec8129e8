"""All voices as one file: it comes back whole, and what is no such file changes nothing."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwen3_tts_service.errors import InvalidValue, StorageFull
from qwen3_tts_service.voices import backup
from qwen3_tts_service.voices.saved import pack, unpack

from .voices import assert_same, store, voice

ADA, BOB = voice("Ada", 1), voice("Bob", 2, text=None)
WHOLE = backup.write([ADA, BOB])


def anything(name: str) -> None:
    """Every name is free."""


def test_it_comes_back_and_what_is_there_stays(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.add(ADA)
    kept.rename(ADA.words.id, "Ada II")
    imported = kept.import_(WHOLE, anything)
    assert (imported.added, imported.unchanged) == ((BOB.words.id,), (ADA.words.id,))
    again = store(tmp_path)
    assert again.get(ADA.words.id).words.name == "Ada II"
    assert_same(again.get(BOB.words.id), BOB)
    assert kept.import_(WHOLE, anything).added == ()


def test_none_at_all_is_a_backup_too(tmp_path: Path) -> None:
    assert backup.read(store(tmp_path).exported()) == []


def changed(words: Any = None, tensors: Any = None, metadata: Any = None) -> bytes:
    """The backup, with its parts changed in place by these functions."""
    parts, told = unpack(WHOLE)
    every = json.loads(told["voices"])
    for change, part in ((words, every), (tensors, parts)):
        if change is not None:
            change(part)
    told["voices"] = json.dumps(every)
    if metadata is not None:
        metadata(told)
    return pack(parts, told)


def _set(index: int, **fields: object) -> Any:
    return lambda every: every[index].update(fields)


def _tensor(name: str, value: np.ndarray) -> Any:
    return lambda parts: parts.update({f"{ADA.words.id}/{name}": value})


NAN = np.full(1024, np.nan, np.float32)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "safetensors"),
        (b"\xff" * 8, "safetensors"),
        (WHOLE[:-1], "safetensors"),
        (WHOLE + b"\0", "safetensors"),
        (pickle.dumps({"voices": []}), "safetensors"),
        (pack({"x": np.zeros(3, np.float32)}), "version"),
        (pack({"x": np.zeros(3)}), "F64"),
        (changed(tensors=lambda parts: parts.update(version=np.array([2], np.int16))), "version"),
        (changed(metadata=lambda told: told.pop("voices")), "JSON"),
        (changed(metadata=lambda told: told.update(voices="[" * 100_000)), "JSON"),
        (changed(_set(0, id="../../etc/passwd")), "id"),
        (changed(_set(0, id="voice_0123456789ABCDEF")), "id"),
        (changed(_set(0, id=BOB.words.id)), "id occurs twice"),
        (changed(_set(0, name="bob")), "name occurs twice"),
        (changed(_set(0, name="a\0b")), "visible"),
        (changed(_set(0, name=" a")), "spaces"),
        (changed(_set(0, name=7)), "string"),
        (changed(_set(0, kind="stolen")), "cloned"),
        (changed(_set(0, consent=False)), "True"),
        (changed(_set(0, created=-1)), "created"),
        (changed(_set(0, model_size="a/b")), "model_size"),
        (changed(_set(0, ref_text="x" * 5000)), "4096"),
        (changed(_set(0, path="/etc/passwd")), "path"),
        (changed(_set(1, ref_text="words but no codes")), "tensors"),
        (changed(lambda every: every.pop()), "does not name"),
        (changed(lambda every: every[0].pop("consent")), "consent"),
        (changed(tensors=_tensor("speaker_embedding", NAN)), "NaN"),
        (changed(tensors=_tensor("speaker_embedding", np.zeros((2, 512), np.float32))), "shape"),
        (changed(tensors=_tensor("speaker_embedding", np.zeros(10_000, np.float32))), "shape"),
        (changed(tensors=_tensor("speaker_embedding", np.zeros(1024, np.int16))), "int16"),
        (changed(tensors=_tensor("codes", np.full((3, 16), -1, np.int16))), "outside"),
        (changed(tensors=_tensor("codes", np.full((3, 16), 2048, np.int16))), "outside"),
        (changed(tensors=_tensor("codes", np.zeros((0, 16), np.int16))), "shape"),
        (changed(tensors=_tensor("codes", np.zeros((3, 15), np.int16))), "shape"),
        (changed(tensors=_tensor("codes", np.zeros((751, 16), np.int16))), "shape"),
        (changed(tensors=_tensor("more", np.zeros(1, np.int16))), "more"),
    ],
)
def test_what_is_wrong_with_one_is_said_and_nothing_is_kept(
    tmp_path: Path, content: bytes, word: str
) -> None:
    kept = store(tmp_path)
    with pytest.raises(InvalidValue) as caught:
        kept.import_(content, anything)
    assert word in caught.value.message
    assert len(caught.value.message) < 500
    assert (kept.all(), list(tmp_path.iterdir())) == ([], [])


def test_names_that_are_taken_here_are_named(tmp_path: Path) -> None:
    kept = store(tmp_path)
    there = voice("bob", 3)
    kept.add(there)
    with pytest.raises(InvalidValue, match=there.words.id):
        kept.import_(WHOLE, anything)

    def refuse(name: str) -> None:
        raise InvalidValue(f"{name} is a speaker", param="name")

    with pytest.raises(InvalidValue, match="is a speaker"):
        store(tmp_path / "other").import_(WHOLE, refuse)
    assert kept.all() == [there]


def test_more_than_may_be_kept_is_refused_as_a_whole(tmp_path: Path) -> None:
    for limits in ({"most_voices": 1}, {"most_bytes": len(WHOLE) - 1}):
        kept = store(tmp_path, **limits)
        with pytest.raises(StorageFull):
            kept.import_(WHOLE, anything)
        assert kept.all() == []
    store(tmp_path, most_voices=2, most_bytes=len(WHOLE)).import_(WHOLE, anything)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, len(WHOLE)),
)
def test_any_damage_is_refused_or_harmless(bytes_at: list[tuple[int, int]], length: int) -> None:
    content = bytearray(WHOLE)
    for place, value in bytes_at:
        content[place] = value
    # Where the length is as it was, numbers and words may have changed to others that are as good.
    for damaged in (bytes(content), bytes(content[:length]), bytes(content[:2000])):
        try:
            voices = backup.read(damaged)
        except InvalidValue:
            continue
        else:
            assert len(damaged) == len(WHOLE)
            assert backup.read(backup.write(voices)) is not None


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(InvalidValue):
        backup.read(content)
