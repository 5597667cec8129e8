"""What a user on the LAN meets: speech over HTTP, keys, clear errors."""

from __future__ import annotations

import array
import io
import math
import wave

import pytest

from conftest import Service

RATE = 24_000


def samples(wav: bytes) -> array.array:
    with wave.open(io.BytesIO(wav)) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (1, RATE, 2)
        return array.array("h", file.readframes(file.getnframes()))


def test_ready_names_device_and_model(service: Service) -> None:
    ready = service.request("/ready")
    assert ready.status == 200
    assert ready.json()["status"] == "ready"
    assert ready.json()["device"] == "cpu"


def test_speech_is_a_wav_of_plausible_length_and_loudness(service: Service) -> None:
    answer = service.speak("The quick brown fox jumps over the lazy dog.", seed=7)
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"] == "audio/wav"
    sound = samples(answer.body)
    assert 0.3 < len(sound) / RATE < 60
    loudness = math.sqrt(sum(one * one for one in sound) / len(sound)) / 32768
    assert 0.01 < loudness < 0.9


def same_speech(one: array.array, other: array.array) -> bool:
    """Equal but for rounding: the decoder may cut its work in other places when the machine is busy."""
    return len(one) == len(other) and max(abs(a - b) for a, b in zip(one, other, strict=True)) <= 2


def test_a_seed_gives_the_same_speech_and_another_seed_another(service: Service) -> None:
    first, again, other = (samples(service.speak("Twice the same.", seed=seed).body) for seed in (3, 3, 4))
    assert same_speech(first, again)
    assert not same_speech(first, other)


def test_pcm_is_the_wav_without_its_header(service: Service) -> None:
    wav, pcm = (service.speak("Raw.", seed=5, response_format=name) for name in ("wav", "pcm"))
    assert same_speech(samples(wav.body), array.array("h", pcm.body))


#: Format -> its content type, and what its bytes begin with (aac: twelve bits of a frame's sync word).
FORMATS = {
    None: ("audio/mpeg", b"ID3"),
    "mp3": ("audio/mpeg", b"ID3"),
    "opus": ("audio/ogg", b"OggS"),
    "aac": ("audio/aac", b"\xff\xf1"),
    "flac": ("audio/flac", b"fLaC"),
    "wav": ("audio/wav", b"RIFF"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_made_under_the_units_confinement(service: Service, name: str | None) -> None:
    body = {"input": "In some form.", "voice": service.voice(), "speed": 1.25}
    answer = service.request("/v1/audio/speech", body | ({"response_format": name} if name else {}))
    content_type, magic = FORMATS[name]
    assert (answer.status, answer.headers["Content-Type"]) == (200, content_type)
    assert answer.body.startswith(magic)
    assert len(answer.body) > 1000


def test_every_voice_speaks(service: Service) -> None:
    voices = [voice["id"] for voice in service.request("/v1/audio/voices").json()["voices"]]
    assert voices
    for voice in voices[:3]:
        assert service.speak("Hello.", voice=voice).status == 200


def test_models_lists_what_is_served(service: Service) -> None:
    assert len(service.request("/v1/models").json()["data"]) == 1


@pytest.mark.parametrize("path", ["/v1/audio/voices", "/v1/models", "/v1/audio/speech"])
@pytest.mark.parametrize("key", [None, "wrong"])
def test_without_the_key_nothing_but_health(service: Service, path: str, key: str | None) -> None:
    body = {"input": "no", "voice": "x"} if path.endswith("speech") else None
    answer = service.request(path, body, key=key)
    assert answer.status == 401
    assert answer.json()["error"]["message"]
    assert service.request("/health", key=None).status == 200


# What is sent -> the status and a word that the message must contain: field, value or what is allowed.
BAD = {
    "empty": ({"input": ""}, {400}, "input"),
    "missing input": ({"input": None}, {400}, "input"),
    "too long": ({"input": "a" * 5000}, {400, 413}, "4096"),
    "unknown voice": ({"voice": "nobody-has-this"}, {400, 404}, "nobody-has-this"),
    "unknown language": ({"language": "klingon"}, {400}, "klingon"),
    "unknown model": ({"model": "tts-9"}, {400, 404}, "tts-9"),
    "wrong type": ({"input": 7}, {400}, "input"),
    "unknown format": ({"response_format": "ogg-vorbis"}, {400}, "wav"),
    "unknown seed type": ({"seed": "seven"}, {400}, "seed"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_and_the_service_goes_on(service: Service, name: str) -> None:
    fields, statuses, word = BAD[name]
    answer = service.request("/v1/audio/speech", {"input": "fine", "voice": service.voice(), **fields})
    assert answer.status in statuses, answer.body
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert word in error["message"], error
    assert service.request("/ready").status == 200


@pytest.mark.parametrize(
    ("body", "content_type", "statuses"),
    [
        (b"{not json", "application/json", {400}),
        (b'{"input": "x"}', "text/plain", {400, 415}),
        (b'["a list"]', "application/json", {400}),
        (b'{"input": "' + b"a" * 17_000_000 + b'"}', "application/json", {413}),
    ],
    ids=["broken JSON", "wrong content type", "not an object", "huge body"],
)
def test_bad_bodies_get_openai_errors(
    service: Service, body: bytes, content_type: str, statuses: set[int]
) -> None:
    answer = service.request("/v1/audio/speech", body, content_type=content_type)
    assert answer.status in statuses, answer.body
    assert answer.json()["error"]["message"]
    assert service.speak("Still here.").status == 200
