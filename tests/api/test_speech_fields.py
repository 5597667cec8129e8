"""What a request can say beyond its text, and what the engine is then asked."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

import pytest

from qwen3_tts_service.errors import EngineError
from qwen3_tts_service.speech.request import Sampling, SpeechRequest
from server_process import wait_for
from stand_in_engine import Service, service

PARAGRAPHS = "One sentence. And another.\n\nThe end."


@pytest.fixture
def running() -> Iterator[Service]:
    with service() as started:
        yield started


def asked(running: Service) -> list[SpeechRequest]:
    return [utterance._request for utterance in running.engine.utterances]


def test_what_is_not_said_is_the_checkpoints_own(running: Service) -> None:
    assert running.speak("Hello.").status == 200
    [request] = asked(running)
    own = Sampling(temperature=0.7, top_k=20)
    assert request.drawn(own) is request
    assert (request.sampling, request.max_frames, request.more_parts) == (None, 2000, ())


def test_what_is_said_of_the_sampling_changes_nothing_else(running: Service) -> None:
    fields = {
        "temperature": 0.5,
        "top_p": 0.9,
        "repetition_penalty": 1.2,
        "subtalker_top_k": 7,
        "greedy": True,
    }
    assert running.speak("Hello.", **fields).status == 200
    [request] = asked(running)
    own = Sampling(temperature=0.7, top_k=20)
    assert request.drawn(own).sampling == Sampling(
        temperature=0.5, top_k=20, top_p=0.9, repetition_penalty=1.2, subtalker_top_k=7, greedy=True
    )


@pytest.mark.parametrize(
    ("split", "texts"),
    [
        ("none", ["One sentence. And another.  The end."]),
        ("paragraph", ["One sentence. And another.", "The end."]),
        ("sentence", ["One sentence.", "And another.", "The end."]),
    ],
)
def test_a_text_is_spoken_in_the_parts_that_are_wanted(
    running: Service, split: str, texts: list[str]
) -> None:
    answer = running.speak(PARAGRAPHS, split=split, seed=9)
    assert answer.status == 200
    assert running.engine.spoken == texts
    assert [request.seed for request in asked(running)] == [9 + number for number in range(len(texts))]
    assert len(answer.content) == 44 + 4800 * len(texts), "one file, one header"


def test_paragraphs_are_the_default_and_a_pause_is_between_them(running: Service) -> None:
    answer = running.speak(PARAGRAPHS, pause=0.25, response_format="pcm")
    assert len(answer.content) == 2 * 4800 + 12_000
    assert not any(answer.content[4800:16_800])


def test_a_book_is_spoken_to_its_end() -> None:
    with service(max_input_chars=60_000) as running:
        sentence = "It was the best of times, it was the worst of times. "
        assert running.speak(sentence * 900).status == 200
        assert "".join(running.engine.spoken).count("worst of times.") == 900
        assert max(map(len, running.engine.spoken)) <= 400


def test_a_later_part_that_fails_breaks_the_answer_off(running: Service) -> None:
    running.engine.hold_at = 1

    def second(request: SpeechRequest) -> list[object]:
        if request.text == "The end.":
            raise EngineError("planted")
        return [running.engine.waveform]

    running.engine.pieces = second  # type: ignore[method-assign,assignment]
    with pytest.raises(http.client.IncompleteRead) as caught:
        running.speak(PARAGRAPHS, response_format="pcm")
    assert len(caught.value.partial) in (0, 4800)


def test_max_seconds_is_the_longest_length(running: Service) -> None:
    running.engine.finish = "length"
    assert running.speak("Hello.", max_seconds=0.8).status == 200
    assert asked(running)[0].max_frames == 10


def test_an_answer_that_is_not_streamed_has_a_length_and_its_end(running: Service) -> None:
    answer = running.speak("Hello.", stream=False)
    assert answer.headers["content-length"] == "4844"
    assert answer.headers["x-finish-reason"] == "stop"
    assert int.from_bytes(answer.content[40:44], "little") == 4800, "the header tells the true size"
    assert "warning" not in answer.headers


def test_how_a_streamed_request_went_is_told_afterwards(running: Service) -> None:
    spoken = running.speak(PARAGRAPHS, seed=7)
    request_id = spoken.headers["x-request-id"]
    told = json.loads(running.ask("GET", f"/v1/audio/speech/{request_id}").content)
    assert told["request_id"] == request_id
    assert (told["state"], told["finish_reason"]) == ("finished", "stop")
    assert (told["seed"], told["voice"], told["model"]) == (7, "vivian", "stand-in")
    assert (told["parts"], told["part"], told["characters"]) == (2, 1, 34)
    assert told["audio_seconds"] == 0.2
    assert told["part_starts"] == [0, 0.1]
    assert told["first_audio_seconds"] >= 0


def test_where_parts_begin_is_told_at_the_speed_and_after_the_pause(running: Service) -> None:
    spoken = running.speak(PARAGRAPHS, speed=2, pause=1)
    told = running.ask("GET", f"/v1/audio/speech/{spoken.headers['x-request-id']}").json
    assert told["part_starts"] == [0, 0.55]


def test_how_a_request_goes_is_told_while_it_is_spoken(running: Service) -> None:
    running.engine.repeat, running.engine.hold_at = 2, 1
    running.engine.go.clear()
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
    body = json.dumps({"input": "Hello.", "voice": "vivian", "response_format": "pcm"})
    connection.request("POST", "/v1/audio/speech", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    path = f"/v1/audio/speech/{response.headers['X-Request-Id']}"
    told = json.loads(running.ask("GET", path).content)
    assert (told["state"], told["finish_reason"], told["audio_seconds"]) == ("speaking", None, 0.1)
    running.engine.go.set()
    response.read()
    assert json.loads(running.ask("GET", path).content)["state"] == "finished"


@pytest.mark.parametrize("name", ["0123456789abcdef", "..", "%2e%2e%2fetc", "x" * 300])
def test_a_request_that_nobody_made_is_not_found(running: Service, name: str) -> None:
    answer = running.ask("GET", f"/v1/audio/speech/{name}")
    assert answer.status == 404
    assert answer.error["code"] == "not_found"


@pytest.mark.parametrize("log_text", [False, True])
def test_the_text_is_in_the_journal_where_that_is_wanted(
    log_text: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with service(log_text=log_text) as running, caplog.at_level("INFO"):
        assert running.speak(PARAGRAPHS).status == 200
        wait_for(lambda: "finish=stop" in caplog.text, "the line of the request")
    [fields] = [record.journal_fields for record in caplog.records if hasattr(record, "journal_fields")]
    assert (fields["CHARACTERS"], fields["FINISH"], fields["VOICE"]) == (34, "stop", "vivian")
    assert fields.get("TEXT") == ("One sentence. And another.\nThe end." if log_text else None)
    assert ("The end." in caplog.text) is log_text
