"""One endpoint over several models: the voice finds its checkpoint, and what none can do says which one could."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server_process import Answer
from stand_in_engine import Service, StandInEngine, service
from stand_in_voices import StandInBase, StandInDesign, recording, saved, source

AUDIO = {"audio": base64.b64encode(recording()).decode()}
DESIGN = {"design": "A deep, calm voice."}


class Small(StandInEngine):
    """A custom-voice checkpoint of 0.6B, which knows no instructions."""

    model_size = "0b6"
    speakers = ("ryan", "eric")


class Large(StandInEngine):
    model_size = "1b7"
    speakers = ("ryan", "serena")

    def check(self, request: Any) -> None:
        super().check(request)
        self.instructions = request.instructions


class All:
    """Every kind, some loaded on first use, and who spoke last."""

    def __init__(self, directory: Path) -> None:
        self.engines: dict[str, StandInEngine] = {
            "small": Small(),
            "large": Large(),
            "base-small": StandInBase(size="0b6"),
            "base-large": StandInBase(size="1b7"),
            "design": StandInDesign(),
        }
        first, *more = (
            source(name, engine, at_start=number == 0)
            for number, (name, engine) in enumerate(self.engines.items())
        )
        self.context = service(
            source=first, more=more, voices_directory=directory, model_aliases=("tts-1", "hd=large")
        )

    def spoken_by(self, running: Service, **fields: Any) -> str:
        for engine in self.engines.values():
            engine.spoken.clear()
        answer = running.speak("Hello.", **{"voice": None, **fields})
        assert answer.status == 200, answer.content
        [name] = [name for name, engine in self.engines.items() if "Hello." in engine.spoken]
        return name


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> All:
    return All(tmp_path_factory.mktemp("voices"))


@pytest.fixture(scope="module")
def running(models: All) -> Iterator[Service]:
    with models.context as started:
        saved(started, name="Tiny", model="base-small")
        saved(started, name="Grand", model="base-large")
        yield started


@pytest.mark.parametrize(
    ("fields", "model"),
    [
        ({"voice": "ryan"}, "small"),
        ({"voice": "Eric"}, "small"),
        ({"voice": "serena"}, "large"),
        ({"voice": {"id": "serena"}}, "large"),
        ({"voice": "coral"}, "large"),
        ({"voice": "ryan", "instructions": "Whisper."}, "large"),
        ({"voice": "ryan", "model": "large"}, "large"),
        ({"voice": "ryan", "model": "tts-1"}, "small"),
        ({"voice": "serena", "model": "tts-1"}, "large"),
        ({"voice": "ryan", "model": "hd"}, "large"),
        ({"voice": "Tiny"}, "base-small"),
        ({"voice": "grand"}, "base-large"),
        ({"voice": "Grand", "model": "tts-1"}, "base-large"),
        ({"voice": "Grand", "model": "base-large"}, "base-large"),
        ({"voice": AUDIO}, "base-small"),
        ({"voice": AUDIO, "model": "base-large"}, "base-large"),
        ({"voice": DESIGN}, "design"),
        ({"voice": DESIGN, "model": "tts-1"}, "design"),
        ({"instructions": "A deep, calm voice."}, "design"),
        ({"instructions": "A deep, calm voice.", "model": "design"}, "design"),
    ],
)
def test_the_voice_finds_its_model(running: Service, models: All, fields: dict[str, Any], model: str) -> None:
    assert models.spoken_by(running, **fields) == model


def test_a_description_is_the_instructions_of_the_model(running: Service, models: All) -> None:
    models.spoken_by(running, voice=DESIGN)
    design = models.engines["design"]
    assert isinstance(design, StandInDesign)
    assert (design.said.instructions, design.said.voice) == ("A deep, calm voice.", None)


def refused(answer: Answer, code: str, *words: str) -> None:
    assert (answer.status, answer.error["code"]) == (404 if code == "unknown_model" else 400, code), (
        answer.content
    )
    for word in words:
        assert word in answer.error["message"]


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"voice": "nobody"}, "unknown_voice", ["ryan, eric, serena, Tiny, Grand"]),
        ({"voice": "nobody", "model": "small"}, "unknown_voice", ["nobody"]),
        ({"voice": "ryan", "model": "none"}, "unknown_model", ["'small'"]),
        ({"voice": AUDIO, "model": "small"}, "not_supported_by_model", ["Base", "'base-small'"]),
        ({"voice": "Tiny", "model": "large"}, "not_supported_by_model", ["Base", "saved voice 'Tiny'"]),
        ({"voice": "Tiny", "model": "base-large"}, "not_supported_by_model", ["0b6", "1b7"]),
        ({"voice": DESIGN, "model": "base-large"}, "not_supported_by_model", ["VoiceDesign", "'design'"]),
        ({"voice": DESIGN, "instructions": "Whisper."}, "invalid_value", ["both"]),
        ({"voice": {**DESIGN, "id": "ryan"}}, "invalid_value", ['{"id": "NAME"}']),
        ({"voice": {**DESIGN, **AUDIO}}, "invalid_value", ['{"design": "DESCRIPTION"}']),
        ({"voice": {"design": " "}}, "invalid_value", ["`voice.design` is empty"]),
        ({"voice": {"design": 3}}, "invalid_value", ["must be a string"]),
        ({"voice": {"design": "x" * 5000}}, "input_too_long", ["voice.design"]),
    ],
)
def test_what_does_not_fit_is_said(
    running: Service, fields: dict[str, Any], code: str, words: list[str]
) -> None:
    refused(running.speak("Hello.", **{"voice": None, **fields}), code, *words)


def test_the_list_names_the_model_of_each_voice(running: Service) -> None:
    voices = running.ask("GET", "/v1/audio/voices").json["voices"]
    found = {(voice["name"], voice["model"]) for voice in voices if voice["kind"] in ("speaker", "cloned")}
    assert found == {
        *(("ryan", "small"), ("eric", "small"), ("ryan", "large"), ("serena", "large")),
        *(("Tiny", "base-small"), ("Grand", "base-large")),
    }
    assert all(voice.keys() == {"id", "name", "language", "model", "kind"} for voice in voices)


@pytest.mark.parametrize(
    ("engine", "fields", "kind"),
    [
        (StandInEngine, {"voice": AUDIO}, "Base"),
        (StandInEngine, {"voice": DESIGN}, "VoiceDesign"),
        (StandInEngine, {"instructions": "A deep voice."}, "VoiceDesign"),
        (StandInDesign, {"voice": AUDIO}, "Base"),
        (StandInBase, {"voice": DESIGN}, "VoiceDesign"),
    ],
)
def test_what_no_model_here_can_do_says_which_could(
    engine: type[StandInEngine], fields: dict[str, Any], kind: str
) -> None:
    with service(source=source("only", engine())) as alone:
        answer = alone.speak("Hello.", **{"voice": None, **fields})
        refused(answer, "not_supported_by_model", f"{kind} checkpoint", "'only'", "more_models")
        assert answer.error["param"] == "voice"


def test_a_voice_that_fits_no_served_checkpoint_stays_in_the_list(tmp_path: Path) -> None:
    with service(source=source("large", StandInBase(size="1b7")), voices_directory=tmp_path) as before:
        saved(before)
    with service(source=source("small", StandInBase(size="0b6")), voices_directory=tmp_path) as now:
        [voice] = now.ask("GET", "/v1/audio/voices").json["voices"]
        assert (voice["name"], voice["model"]) == ("Ada", None)
        refused(now.speak("Hello.", voice="Ada"), "not_supported_by_model", "1b7", "0b6")


def test_a_speaker_of_a_base_checkpoint_is_unknown_in_words_that_help() -> None:
    with service(source=source("base", StandInBase())) as alone:
        refused(alone.speak("Hello.", voice="vivian"), "unknown_voice", "base checkpoint", "recording")


def test_where_nobody_knows_what_a_model_is_it_is_asked_itself() -> None:
    """Its ``config.json`` could not be read; then it is known from its first load on."""
    late = StandInBase()
    with service(more=[source("late", late, at_start=False, told=False)]) as running:
        refused(running.speak("Hello.", voice=AUDIO), "not_supported_by_model", "Base checkpoint")
        assert running.speak("Hello.", voice=AUDIO, model="late").status == 200
        assert running.speak("Hello.", voice=AUDIO).status == 200
