"""What a scrape says after a few requests, and what the lists say of several models."""

from __future__ import annotations

import concurrent.futures
import hashlib
import platform
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import qwen3_tts_service
from arriving_weights import GB, ArrivingWeights
from qwen3_tts_service.api.auth import KeyRing
from qwen3_tts_service.engine_process.messages import CodecCounts, Counts, FrameCounts
from qwen3_tts_service.errors import CheckpointError, EngineError
from qwen3_tts_service.lifecycle import ModelSource
from qwen3_tts_service.loaded_engine import Loaded
from server_process import wait_for
from stand_in_engine import Service, StandInEngine, service


def scraped(running: Service) -> dict[str, float]:
    """Sample name and labels -> value, as Prometheus' own parser reads them."""
    answer = running.ask("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        sample.name
        + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.content.decode())
        for sample in family.samples
    }


class Second:
    """Another model of the process, loaded by its first request."""

    def __init__(self) -> None:
        self.engines: list[StandInEngine] = []
        self.loading_s = 0.0
        self.failure: Exception | None = None
        self.source = ModelSource("second", self.load, at_start=False)

    def load(self, on_fault: object) -> Loaded:
        time.sleep(self.loading_s)
        if self.failure is not None:
            raise self.failure
        self.engines.append(StandInEngine())
        return Loaded(self.engines[-1])


@pytest.fixture
def second() -> Second:
    return Second()


def test_requests_are_counted_by_how_they_ended() -> None:
    with service(slots=2) as running:
        running.engine.repeat = 3
        running.speak("a")
        running.engine.finish = "length"
        running.speak("b")
        running.speak("c", voice="nobody")
        running.engine.fault = EngineError("planted")
        running.speak("d")
        values = scraped(running)
        for finish in ("stop", "length", "invalid", "error"):
            assert values[f"qwen3_tts_requests_total finish={finish} model=stand-in"] == 1
        assert values["qwen3_tts_audio_seconds_total model=stand-in"] == pytest.approx(0.6)
        # Two WAVs of three pieces.
        assert values["qwen3_tts_audio_bytes_total model=stand-in"] == 2 * (44 + 3 * 4800)
        assert values["qwen3_tts_queue_wait_seconds_count model=stand-in"] == 3
        assert values["qwen3_tts_first_audio_seconds_count model=stand-in"] == 2
        assert values["qwen3_tts_compute_ratio_count model=stand-in"] == 2
        assert 0 < values["qwen3_tts_compute_ratio_sum model=stand-in"] < 20


def test_how_far_the_weights_are_is_told_until_they_are_there(tmp_path: Path) -> None:
    arriving = ArrivingWeights(tmp_path)
    arriving.tell()
    with service(weights=arriving.weights) as running:
        wait_for(lambda: running.lifecycle.status.state == "downloading", "the download")
        running.speak("a")
        values = scraped(running)
        assert values["qwen3_tts_ready"] == 0
        assert (values["qwen3_tts_download_bytes"], values["qwen3_tts_download_total_bytes"]) == (
            2 * GB,
            4 * GB,
        )
        assert values["qwen3_tts_refused_total reason=downloading"] == 1
        arriving.arrive()
        wait_for(lambda: running.lifecycle.status.state == "ready", "readiness")
        values = scraped(running)
        assert values["qwen3_tts_ready"] == 1
        assert not any(name.startswith("qwen3_tts_download") for name in values)


def test_what_runs_is_told() -> None:
    with service() as running:
        [build] = [name for name in scraped(running) if name.startswith("qwen3_tts_build_info")]
        assert f"python={platform.python_version()}" in build
        assert f"version={qwen3_tts_service.__version__}" in build


def test_what_an_engine_counts_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Counts(FrameCounts(1000, 1, 0.004, 0.006), CodecCounts(2500, 7), 123_456)
    with service() as running:
        assert not any(name.startswith("qwen3_tts_codec") for name in scraped(running))
        monkeypatch.setattr(running.engine, "stats", lambda: counts)
        values = scraped(running)
    told = {name.partition(" ")[0]: value for name, value in values.items()}
    assert (told["qwen3_tts_frames_total"], told["qwen3_tts_codec_frames_total"]) == (1000, 2500)
    assert (told["qwen3_tts_codec_backlog_frames"], told["qwen3_tts_slots_paused"]) == (7, 1)
    assert values["qwen3_tts_frame_gap_seconds model=stand-in quantile=0.95"] == 0.006


def test_what_models_in_one_process_share_is_told_once(
    monkeypatch: pytest.MonkeyPatch, second: Second
) -> None:
    counts = Counts(FrameCounts(1000, 1, 0.004, 0.006), CodecCounts(2500, 7), 123_456)
    monkeypatch.setattr(StandInEngine, "stats", lambda engine: counts)
    with service(more=[second.source]) as running:
        assert running.speak("a", model="second").status == 200
        values = scraped(running)
    assert values["qwen3_tts_frames_total model=second"] == 1000
    shared = ("qwen3_tts_memory_bytes", "qwen3_tts_codec_frames_total", "qwen3_tts_codec_backlog_frames")
    assert {name: value for name, value in values.items() if name.startswith(shared)} == {
        "qwen3_tts_memory_bytes device=cpu": 123_456,
        "qwen3_tts_codec_frames_total": 2500,
        "qwen3_tts_codec_backlog_frames": 7,
    }


def test_how_prompts_and_codec_are_computed_is_told_while_they_are_there() -> None:
    def ways(values: dict[str, float]) -> dict[str, float]:
        return {name: value for name, value in values.items() if "_way_info" in name}

    frames = {"qwen3_tts_way_info batch=1 model=stand-in way=eager": 1}
    built = Loaded(StandInEngine(), codec_way="compiled", prompt_way="eager")
    with service(source=ModelSource("stand-in", lambda on_fault: built), unload_after_s=0.5) as running:
        assert ways(scraped(running)) == frames | {
            "qwen3_tts_codec_way_info model=stand-in way=compiled": 1,
            "qwen3_tts_prompt_way_info model=stand-in way=eager": 1,
        }
        wait_for(lambda: running.lifecycle.main.state == "unloaded", "it is put aside", 5)
        assert ways(scraped(running)) == {}
    # Upstream's own, which has no ways.
    with service() as running:
        assert ways(scraped(running)) == frames


def test_the_moment_is_told() -> None:
    with service(slots=2, queue_size=3) as running:
        running.engine.go.clear()
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            for number in range(3):
                pool.submit(running.speak, str(number))
            wait_for(lambda: running.lifecycle.main.load.waiting == 1, "one waits")
            values = scraped(running)
            busy = running.ask("GET", "/ready").json
            running.engine.go.set()
        assert (busy["speaking"], busy["waiting"]) == (2, 1)
        assert values["qwen3_tts_slots model=stand-in"] == 2
        assert values["qwen3_tts_max_streams model=stand-in"] == 2
        assert values["qwen3_tts_slots_busy model=stand-in"] == 2
        assert values["qwen3_tts_queue_length model=stand-in"] == 1
        assert values["qwen3_tts_ready"] == values["qwen3_tts_model_loaded model=stand-in"] == 1
        assert values["qwen3_tts_way_info batch=2 model=stand-in way=eager"] == 1
        ready = running.ask("GET", "/ready").json
        assert (ready["ways"], ready["why_not_faster"]) == ({"2": "eager"}, {"2": "no compiler"})


def test_fewer_streams_than_slots_are_told_and_kept() -> None:
    with (
        service(slots=4, max_streams=1, queue_size=1) as running,
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        running.engine.go.clear()
        answers = [pool.submit(running.speak, "a") for _ in range(2)]
        wait_for(lambda: running.lifecycle.main.load.waiting == 1, "the second waits beside free slots")
        assert running.speak("b").status == 429
        values = scraped(running)
        running.engine.go.set()
        assert {answer.result(10).status for answer in answers} == {200}
        ready = running.ask("GET", "/ready").json
    assert values["qwen3_tts_slots model=stand-in"] == 4
    assert values["qwen3_tts_max_streams model=stand-in"] == 1
    assert (ready["max_streams"], ready["stream_speeds"]) == (1, {})


def test_a_scrape_needs_a_key_where_others_do() -> None:
    ring = KeyRing((("prometheus", hashlib.sha256(b"key").digest()),))
    with service(ring) as running:
        assert running.ask("GET", "/metrics").status == 401
        assert running.ask("GET", "/metrics", Authorization="Bearer key").status == 200


def test_a_model_is_loaded_by_the_first_request_that_names_it(second: Second) -> None:
    with service(more=[second.source]) as running:
        assert [model["state"] for model in running.ask("GET", "/v1/models").json["data"]] == [
            "ready",
            "unloaded",
        ]
        assert running.speak("a").status == 200
        assert second.engines == []
        assert running.speak("b", model="second").status == 200
        assert second.engines[0].spoken == ["Ready to speak.", "b"]
        assert running.engine.spoken == ["a"]
        voices = {
            (voice["model"], voice["id"]) for voice in running.ask("GET", "/v1/audio/voices").json["voices"]
        }
        assert {("stand-in", "ryan"), ("second", "ryan")} <= voices
        assert running.ask("GET", "/ready").json["more_models"][0]["state"] == "ready"
        unknown = running.speak("c", model="third")
        assert unknown.status == 404
        assert "'stand-in', 'second'" in unknown.error["message"]


def test_a_model_that_does_not_load_is_told_and_tried_again(second: Second) -> None:
    second.failure = CheckpointError("cut off\nin the middle")
    with service(more=[second.source]) as running:
        refused = running.speak("a", model="second")
        assert (refused.status, refused.error["code"]) == (503, "not_ready")
        assert "cut off in the middle" in refused.error["message"]
        assert running.speak("b").status == 200
        second.failure = None
        assert running.speak("c", model="second").status == 200


@pytest.mark.measuring
def test_whoever_leaves_or_has_no_time_does_not_wait_for_a_load(second: Second) -> None:
    second.loading_s = 2.0
    with service(more=[second.source], request_timeout_s=0.3) as running:
        begun = time.monotonic()
        assert running.speak("a", model="second").status == 503
        assert time.monotonic() - begun < 1.5
        wait_for(lambda: second.engines, "it is loaded all the same")


def test_an_idle_model_is_put_aside_and_comes_back() -> None:
    with service(unload_after_s=0.5) as running:
        assert running.speak("a").status == 200
        wait_for(lambda: running.lifecycle.main.state == "unloaded", "it is put aside", 5)
        wait_for(lambda: running.engine.closed, "its memory is given back")
        assert running.ask("GET", "/ready").status == 200
        assert running.ask("GET", "/v1/audio/voices").json["voices"]
        assert scraped(running)["qwen3_tts_model_loaded model=stand-in"] == 0
        assert running.speak("b").status == 200


def test_an_idle_device_is_kept_awake() -> None:
    with service(keepalive_s=0.5) as running:
        wait_for(lambda: running.engine.spoken, "a frame is spoken", 5)
        assert running.lifecycle.main.load.speaking == 0
