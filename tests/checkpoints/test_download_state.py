"""What a download tells other processes: whole, bounded, and read with distrust."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from qwen3_tts_service.checkpoints.download_progress import MIB, Telling, Wanted
from qwen3_tts_service.checkpoints.download_state import MOST_BYTES, DownloadState, read_state, write_state
from qwen3_tts_service.errors import DownloadError
from server_process import wait_for

GOOD: dict[str, Any] = {
    "repo": "Someone/Model",
    "state": "downloading",
    "started": 1.8e9,
    "beat": 12.5,
    "done": 1,
    "total": 2,
    "rate": 3.0,
    "remaining_s": None,
    "file": "model.safetensors",
    "error": "",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state.json"


def read(file: Path) -> DownloadState:
    state = read_state(file)
    assert state is not None
    return state


def test_what_is_written_is_read(file: Path) -> None:
    assert read_state(file) is None
    state = DownloadState(**GOOD)
    write_state(file, state)
    assert read_state(file) == state
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "EOF"),
        (b"[]", "object"),
        (b"null", "object"),
        (b"[" * 10_000, "recursion"),
        (b"\xff\xfe", "JSON"),
        (b" " * (MOST_BYTES + 1), "more than"),
        *(
            (json.dumps(GOOD | {name: value}).encode(), name)
            for name, value in [
                ("state", "finished"),
                ("state", None),
                ("done", -1),
                ("done", "7"),
                ("done", True),
                ("total", 1 << 60),
                ("rate", float("nan")),
                ("rate", float("inf")),
                ("remaining_s", "soon"),
                ("beat", -1),
                ("file", "x" * 5000),
                ("error", {}),
            ]
        ),
        (json.dumps({"state": "downloading"}).encode(), "repo"),
    ],
)
def test_what_is_no_state_is_refused_with_what_is_wrong(file: Path, content: bytes, told: str) -> None:
    file.write_bytes(content)
    with pytest.raises(DownloadError, match=told) as caught:
        read_state(file)
    assert caught.value.param == str(file)
    assert len(caught.value.message) < 500, "what stands there is not repeated"


@pytest.mark.parametrize("kind", ["directory", "pipe", "link", "device"])
def test_what_is_no_ordinary_file_is_refused_and_not_waited_for(
    file: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "directory":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    else:
        write_state(tmp_path / "elsewhere", DownloadState(**GOOD))
        file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DownloadError, match="cannot be read"):
        read_state(file)


def test_a_reader_never_sees_half_of_it(file: Path) -> None:
    write_state(file, DownloadState(**GOOD))
    over = threading.Event()

    def write() -> None:
        for number in range(300):
            write_state(file, DownloadState(**GOOD | {"done": number, "file": "x" * number}))
        over.set()

    threading.Thread(target=write).start()
    looks = 0
    while not over.is_set():
        looks += 1
        seen = read(file)
        assert len(seen.file) == seen.done or seen == DownloadState(**GOOD)
    assert looks > 1


def test_a_download_tells_what_lies_on_the_disk(file: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    (tmp_path / "aa").write_bytes(bytes(MIB))
    with Telling(
        "Someone/Model", report=lines.append, progress=lines.append, every_s=0.05, file=file
    ) as telling:
        assert (read(file).state, read(file).total) == ("resolving", 0)
        telling.fetching(Wanted(tmp_path, {"aa": ("config.json", MIB), "bb": ("big.safetensors", 3 * MIB)}))
        wait_for(lambda: read(file).done == MIB, "what an earlier try left")
        (tmp_path / "bb.incomplete").write_bytes(bytes(MIB))
        wait_for(lambda: read(file).done == 2 * MIB, "what arrives")
        seen = read(file)
        assert (seen.state, seen.total, seen.file) == ("downloading", 4 * MIB, "big.safetensors")
        assert seen.rate > 0
        assert seen.remaining_s == pytest.approx(2 * MIB / seen.rate)
        assert 0 <= time.monotonic() - seen.beat < 60
        wait_for(lambda: any(line.startswith(" 50.0 %") for line in lines), "a line of progress")
        telling.verifying()
        wait_for(lambda: read(file).state == "verifying", "the comparison")
    assert (read(file).state, read(file).remaining_s) == ("complete", 0)


def test_a_download_that_fails_says_why_in_one_short_line(file: Path) -> None:
    with pytest.raises(DownloadError), Telling("Someone/Model", file=file):
        raise DownloadError("the repository\n is gated " + 5000 * "x")
    assert read(file).state == "failed"
    assert read(file).error.startswith("the repository is gated x")


def test_a_state_that_cannot_be_written_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere" / "state.json"
    with pytest.raises(DownloadError, match="nowhere"), Telling("Someone/Model", file=nowhere):
        raise AssertionError("it began")


def test_a_disk_that_fills_up_later_stops_no_download(tmp_path: Path) -> None:
    place, lines = tmp_path / "run", []
    place.mkdir()
    with Telling("Someone/Model", report=lines.append, every_s=0.02, file=place / "state.json"):
        (place / "state.json").unlink()
        place.rmdir()
        wait_for(lambda: lines, "a word of it")
        time.sleep(0.1)
    assert [line for line in lines if "cannot be written" in line] == lines[:1]
