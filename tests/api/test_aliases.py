"""What unmodified clients of OpenAI's API send is understood: their names of models and voices, and two fields."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stand_in_engine import Service, service


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with service() as started:
        yield started


def spoken_by(running: Service) -> str | None:
    return running.engine.utterances[-1]._request.voice


@pytest.mark.parametrize(
    ("voice", "speaker"), [("alloy", "ryan"), ("Nova", "vivian"), ("ryan", "ryan"), ({"id": "alloy"}, "ryan")]
)
def test_openais_voices_are_speakers_of_the_checkpoint(running: Service, voice: object, speaker: str) -> None:
    assert running.speak("Hello.", voice=voice).status == 200
    assert spoken_by(running) == speaker


def test_an_alias_of_a_speaker_that_is_not_there_is_an_unknown_voice(running: Service) -> None:
    answer = running.speak("Hello.", voice="coral")
    assert (answer.status, answer.error["code"]) == (400, "unknown_voice")
    assert "coral" in answer.error["message"]


def test_the_list_of_voices_names_the_aliases_that_work(running: Service) -> None:
    voices = {voice["id"]: voice for voice in running.ask("GET", "/v1/audio/voices").json["voices"]}
    assert voices["ryan"]["kind"] == "speaker"
    assert (voices["alloy"]["kind"], voices["alloy"]["name"]) == ("alias", "ryan")
    assert "coral" not in voices


@pytest.mark.parametrize("model", ["tts-1", "tts-1-hd", "gpt-4o-mini-tts", "stand-in"])
def test_openais_models_are_the_first_one(running: Service, model: str) -> None:
    assert running.speak("Hello.", model=model).status == 200


def test_fields_that_change_nothing_are_named_in_a_warning(running: Service) -> None:
    answer = running.speak("Hello.", user="somebody", stream=True)
    assert answer.status == 200
    assert answer.headers["warning"] == '299 - "ignored: user"'
    assert "warning" not in running.speak("Hello.").headers


def test_an_operator_chooses_the_names() -> None:
    with service(voice_aliases=("butler=vivian",), model_aliases=("house=stand-in",)) as own:
        assert own.speak("Hello.", voice="butler", model="house").status == 200
        assert spoken_by(own) == "vivian"
        assert own.speak("Hello.", voice="alloy").status == 400
        assert own.speak("Hello.", model="tts-1").error["code"] == "unknown_model"
