"""The streaming engine itself behind the real server: the promises that a stand-in cannot keep for it."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from qwen3_tts_service.config import Settings
from qwen3_tts_service.engine_process.parent import EngineProcess
from qwen3_tts_service.engine_stats import FrameStats
from qwen3_tts_service.lifecycle import ModelSource
from server_process import wait_for
from stand_in_engine import Service, service

from .test_streaming import Reader

pytestmark = pytest.mark.slow

FRAME_BYTES = 2 * 1920
LONG = "One two three four five six seven eight nine ten. " * 10


@pytest.fixture(scope="module")
def running(tiny_checkpoint: Path) -> Iterator[Service]:
    settings = Settings(
        model=tiny_checkpoint, device="cpu", cpu_threads=1, codec_threads=1, slots=2, fastest_way="eager"
    )
    process = EngineProcess(settings)
    source = ModelSource("tiny", partial(process.load, tiny_checkpoint))
    with service(slots=2, source=source, queue_size=4, max_streams=2) as started:
        yield started
    process.stop()


def stats(running: Service) -> FrameStats:
    found = running.lifecycle.main.stats()
    assert found is not None
    return found.frames


def speak(running: Service, text: str, **fields: object) -> bytes:
    answer = running.speak(text, response_format="pcm", **fields)
    assert answer.status == 200
    return answer.content


@pytest.mark.measuring
@pytest.mark.parametrize("time_no", range(3))
def test_whoever_hangs_up_frees_the_slot_within_two_frames(running: Service, time_no: int) -> None:
    reader = Reader(running.port, LONG)
    assert len(reader.answer().read(FRAME_BYTES)) == FRAME_BYTES
    reader.hang_up()
    before = stats(running).frames
    wait_for(lambda: running.lifecycle.main.load.speaking == 0, "the slot is free")
    # One may be under way when the client leaves.
    assert stats(running).frames - before <= 2
    time.sleep(0.3)
    assert stats(running).frames - before <= 2


@pytest.mark.measuring
def test_whoever_hangs_up_before_the_first_sound_frees_the_slot_too(running: Service) -> None:
    reader = Reader(running.port, LONG)
    wait_for(lambda: running.lifecycle.main.load.speaking == 1, "it has its turn")
    reader.hang_up()
    wait_for(lambda: running.lifecycle.main.load.speaking == 0, "the slot is free")
    before = stats(running).frames
    time.sleep(0.3)
    assert stats(running).frames - before <= 2


def test_sound_arrives_while_frames_are_made(running: Service) -> None:
    reader = Reader(running.port, LONG)
    response = reader.answer()
    assert len(response.read(FRAME_BYTES)) == FRAME_BYTES
    made_by_then = stats(running).frames
    rest = response.read()
    assert len(rest) % FRAME_BYTES == 0
    assert stats(running).frames - made_by_then > 10


def test_neighbours_do_not_change_what_is_said(running: Service) -> None:
    alone = speak(running, "Alone, and then in company.", seed=11)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        texts = ["Alone, and then in company.", "Somebody else.", "And a third one.", "A fourth."]
        sounds = list(pool.map(lambda item: speak(running, item[1], seed=11 + item[0]), enumerate(texts)))
    first, second = (np.frombuffer(sound, "<i2").astype(int) for sound in (alone, sounds[0]))
    assert len(first) == len(second)
    assert np.abs(first - second).max() <= 2
    assert all(len(sound) % FRAME_BYTES == 0 for sound in sounds)


def test_a_scrape_tells_of_frames(running: Service) -> None:
    speak(running, "Hello.", seed=1)
    text = running.ask("GET", "/metrics").content.decode()
    assert 'qwen3_tts_frames_total{model="tiny"}' in text
    assert 'qwen3_tts_frame_gap_seconds{model="tiny",quantile="0.95"}' in text
    assert "qwen3_tts_codec_frames_total " in text
    assert "qwen3_tts_codec_backlog_frames 0.0" in text
    assert 'qwen3_tts_memory_bytes{device="cpu"}' in text
    assert 'qwen3_tts_way_info{batch="2",model="tiny",way="eager"} 1.0' in text
    assert 'qwen3_tts_prompt_way_info{model="tiny",way="eager"} 1.0' in text
    assert 'qwen3_tts_codec_way_info{model="tiny",way="eager"} 1.0' in text
