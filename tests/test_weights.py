"""Weights that are still to come: why they are not there, and when they are."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from arriving_weights import ArrivingWeights
from qwen3_tts_service.errors import CheckpointError, Downloading, NoWeights
from qwen3_tts_service.weights import SILENT_AFTER_S, Missing, Weights


@pytest.fixture
def arriving(tmp_path: Path) -> ArrivingWeights:
    return ArrivingWeights(tmp_path)


def missing(arriving: ArrivingWeights) -> Missing:
    found = arriving.weights.missing()
    assert found is not None
    return found


def test_a_directory_is_its_loaders_to_judge(tmp_path: Path) -> None:
    assert Weights(tmp_path / "nowhere").missing() is None
    assert Weights(tmp_path / "nowhere").directory() == tmp_path / "nowhere"


def test_a_download_on_its_way_is_told_with_sizes_and_time(arriving: ArrivingWeights) -> None:
    arriving.tell()
    found = missing(arriving)
    assert found.state == "downloading"
    assert "50.0 %  1907 of 3815 MiB, 9.5 MiB/s, 3 min 20 s left" in found.reason
    refusal = found.refusal()
    assert isinstance(refusal, Downloading)
    assert (refusal.code, refusal.retry_after_s) == ("downloading", 200)
    with pytest.raises(CheckpointError):
        arriving.weights.directory()


@pytest.mark.parametrize(("left", "retry_after_s"), [(0.0, 5), (1e9, 600), (None, 30)])
def test_the_time_to_come_back_is_bounded(
    arriving: ArrivingWeights, left: float | None, retry_after_s: float
) -> None:
    arriving.tell(remaining_s=left)
    assert missing(arriving).refusal().retry_after_s == retry_after_s


@pytest.mark.parametrize(
    ("fields", "state", "word"),
    [
        ({"state": "resolving"}, "downloading", "which files"),
        ({"state": "verifying"}, "downloading", "compared"),
        ({"rate": 0.0, "remaining_s": None}, "downloading", "stalled"),
        (
            {"state": "failed", "error": "the repository is gated"},
            "download_failed",
            "failed: the repository is gated",
        ),
        ({"state": "complete"}, "no_weights", "nothing was downloaded yet"),
    ],
)
def test_every_state_of_a_download_has_its_word(
    arriving: ArrivingWeights, fields: dict[str, Any], state: str, word: str
) -> None:
    arriving.tell(**fields)
    assert missing(arriving).state == state
    assert word in missing(arriving).reason


@pytest.mark.parametrize("since_s", [SILENT_AFTER_S + 1, -1e6], ids=["dead", "of another boot"])
def test_a_writer_that_is_dead_is_no_download(arriving: ArrivingWeights, since_s: float) -> None:
    arriving.tell(beat=time.monotonic() - since_s)
    found = missing(arriving)
    assert found.state == "download_silent"
    assert "start the download again" in found.reason
    refusal = found.refusal()
    assert isinstance(refusal, NoWeights)
    assert refusal.retry_after_s == 30


def test_a_state_that_nobody_understands_is_no_download(arriving: ArrivingWeights) -> None:
    arriving.state_file.write_text("{" * 50_000)
    found = missing(arriving)
    assert (found.state, found.download) == ("download_silent", None)
    assert "start the download again" in found.reason


def test_nothing_at_all_is_told_as_that(arriving: ArrivingWeights) -> None:
    assert missing(arriving).state == "no_weights"
    assert isinstance(missing(arriving).refusal(), NoWeights)
    assert Weights(arriving.record).missing() == missing(arriving)


def test_why_a_download_failed_is_told_without_where_it_went(arriving: ArrivingWeights) -> None:
    arriving.tell(
        state="failed", error="404 for url: https://me:secret@hub.example/api \x1b[31m", remaining_s=None
    )
    reason = missing(arriving).reason
    assert "404 for url: (address)" in reason
    assert "secret" not in reason
    assert "\x1b" not in reason


def test_they_are_there_when_they_are_complete_and_recorded(arriving: ArrivingWeights) -> None:
    arriving.arrive()
    assert arriving.weights.missing() is None
    assert arriving.weights.directory() == arriving.snapshot
    files = [
        arriving.snapshot / "model.safetensors",
        arriving.snapshot / "speech_tokenizer/model.safetensors",
    ]
    assert arriving.weights.size() == sum(file.stat().st_size for file in files)
    with files[0].open("ab") as file:
        file.write(b"more")
    found = missing(arriving)
    assert found.state == "no_weights"
    assert "model.safetensors" in found.reason


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b'{"repo": "a", "revision": "b", "path": null, "files": {}}', b"\xff", b'{"path": "/tmp"}'],
)
def test_a_record_that_is_none_is_no_weights(arriving: ArrivingWeights, content: bytes) -> None:
    arriving.record.write_bytes(content)
    assert missing(arriving).state == "no_weights"
    assert arriving.weights.size() == 0
