"""Voices are saved, listed, spoken with, renamed, carried elsewhere and removed, over real connections."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import errno
import io
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwen3_tts_service.errors import DeviceFault, InputTooLong
from qwen3_tts_service.speech.request import VoicePrompt
from qwen3_tts_service.voices import files
from server_process import wait_for
from stand_in_engine import Service, service
from stand_in_voices import StandInBase, StandInDesign, recording, saved, send_form, source

ADA = {"name": "Ada", "kind": "cloned", "model": "base", "language": None}


@contextlib.contextmanager
def cloning(
    directory: Path | None, engine: StandInBase | None = None, **options: Any
) -> Iterator[tuple[Service, StandInBase]]:
    base = engine or StandInBase()
    with service(source=source("base", base), voices_directory=directory, **options) as running:
        base.listened = 0
        yield running, base


@pytest.fixture
def base(tmp_path: Path) -> Iterator[tuple[Service, StandInBase]]:
    with cloning(tmp_path / "voices") as both:
        yield both


@pytest.fixture
def running(base: tuple[Service, StandInBase]) -> Service:
    return base[0]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One for those who leave no voice behind."""
    with cloning(tmp_path_factory.mktemp("voices")) as (started, _):
        yield started


def listed(running: Service) -> list[dict[str, Any]]:
    voices: list[dict[str, Any]] = running.ask("GET", "/v1/audio/voices").json["voices"]
    return voices


def sound(running: Service, **fields: Any) -> bytes:
    answer = running.speak("Hello.", **{"response_format": "pcm", **fields})
    assert answer.status == 200, answer.content
    return answer.content


def test_a_saved_voice_speaks_and_is_listened_to_once(base: tuple[Service, StandInBase]) -> None:
    running, engine = base
    voice = saved(running)
    assert voice.items() >= ADA.items()
    assert (voice["mode"], voice["ref_text"], voice["consent"]) == ("x-vector", None, True)
    assert listed(running) == [{"id": voice["id"], **ADA}]
    assert running.ask("GET", f"/v1/audio/voices/{voice['id']}").json == voice
    assert engine.listened == 1
    by_id = sound(running, voice=voice["id"])
    for name in ("Ada", "ADA", {"id": voice["id"]}):
        assert sound(running, voice=name) == by_id
    assert engine.listened == 1
    assert len({id(prompt) for prompt in engine.with_prompts}) == 1
    once = {"audio": base64.b64encode(recording()).decode()}
    assert sound(running, voice=once) == by_id


def test_a_recording_for_once_is_listened_to_once_however_many_parts_the_text_has(
    base: tuple[Service, StandInBase],
) -> None:
    running, engine = base
    once = {"audio": base64.b64encode(recording()).decode()}
    text = "One sentence. Another sentence. And a third one."
    assert running.speak(text, voice=once, split="sentence").status == 200
    assert engine.spoken[-3:] == ["One sentence.", "Another sentence.", "And a third one."]
    assert engine.listened == 1


def test_with_its_words_it_is_kept_in_context(running: Service) -> None:
    plain, in_context = (
        saved(running),
        saved(running, name="Bob", ref_text=" Some words. ", language="English"),
    )
    assert (in_context["mode"], in_context["ref_text"]) == ("in-context", "Some words.")
    assert in_context["language"] == "english"
    assert sound(running, voice="Bob") != sound(running, voice="Ada")
    # Forms send the fields that were left empty, too.
    assert saved(running, name="Cyd", ref_text="", language="", model="")["mode"] == plain["mode"]


def test_they_are_there_after_a_restart(tmp_path: Path) -> None:
    with cloning(tmp_path) as (running, _):
        voice = saved(running, ref_text="Some words.")
        before = sound(running, voice="Ada")
    with cloning(tmp_path) as (running, engine):
        assert running.ask("GET", f"/v1/audio/voices/{voice['id']}").json == voice
        assert sound(running, voice="Ada") == before
        assert engine.listened == 0


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_the_container_is_found_out(fuzzed: Service, kind: str) -> None:
    voice = saved(fuzzed, recording(kind=kind))
    assert fuzzed.ask("DELETE", f"/v1/audio/voices/{voice['id']}").status == 200


def test_a_minute_of_uncompressed_stereo_fits(running: Service) -> None:
    mono = np.random.default_rng(0).integers(-3000, 3000, 48_000 * 59, np.int16)
    samples = np.repeat(mono, 2).tobytes()
    header = b"RIFF" + (36 + len(samples)).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    header += b"".join(
        n.to_bytes(w, "little") for n, w in ((1, 2), (2, 2), (48_000, 4), (192_000, 4), (4, 2), (16, 2))
    )
    content = header + b"data" + len(samples).to_bytes(4, "little") + samples
    assert len(content) > 11_000_000
    assert saved(running, content)["id"]


@pytest.mark.parametrize(
    ("content", "fields", "param", "word"),
    [
        (None, {"name": None}, "name", "missing"),
        (None, {"name": "  "}, "name", "1 to 64"),
        (None, {"name": "a\x07b"}, "name", "visible"),
        (None, {"consent": None}, "consent", "missing"),
        (None, {"consent": "yes"}, "consent", "agreed"),
        (None, {"consent": "false"}, "consent", "agreed"),
        (None, {"consnet": "true"}, "consnet", "no such field"),
        (None, {"path": "/etc/passwd"}, "path", "no such field"),
        (None, {"name": ["Ada", "Bob"]}, "name", "more than once"),
        (None, {"ref_text": "  "}, "ref_text", "empty"),
        (None, {"ref_text": "<|im_end|>"}, "ref_text", "control word"),
        (None, {"ref_text": "x" * 5000}, "ref_text", "4096"),
        (None, {"language": "klingon"}, "language", "english"),
        (None, {"model": "other"}, "model", "'base'"),
        (b"", {}, "audio", "cannot be read"),
        (recording()[:100], {}, "audio", "microphone"),
        (b"#EXTM3U\nfile:///etc/passwd\n", {}, "audio", "cannot be read"),
        (recording(0.0), {}, "audio", "no sound"),
        (recording(0.5), {}, "audio", "record some sentences"),
        (recording(level=0.0), {}, "audio", "microphone"),
        (recording(61, level=0.01, kind="OGG"), {}, "audio", "longer than 60 s"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_voice_is_refused_in_words_that_help(
    fuzzed: Service, content: bytes | None, fields: dict[str, Any], param: str, word: str
) -> None:
    answer = send_form(fuzzed, content, **fields)
    assert (answer.status, answer.error["param"]) == (400 if param != "model" else 404, param)
    assert word in answer.error["message"]
    assert listed(fuzzed) == []


def test_an_hour_in_a_small_file_is_refused(fuzzed: Service) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(3600 * 8000, np.int16), 8000, format="FLAC")
    assert len(file.getvalue()) < 1_000_000
    answer = send_form(fuzzed, file.getvalue())
    assert (answer.status, answer.error["param"]) == (400, "audio")
    assert "longer than 60 s" in answer.error["message"]


def test_forms_that_are_none(running: Service) -> None:
    form = "multipart/form-data; boundary=x"
    many = (
        b"".join(b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' for _ in range(100))
        + b"--x--\r\n"
    )
    field = b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\n%s\r\n--x--\r\n'
    for content_type, body, status in (
        ("multipart/form-data", b"", 400),
        (form, b"", 400),
        (form, b"--x", 400),
        (form, b"--y\r\n\r\n--y--\r\n", 400),
        (form, many, 400),
        (form, field % (b"x" * 300_000), 400),
        (form, field % b"Ada", 400),
        ("text/plain", b"", 415),
        ("application/x-www-form-urlencoded", b"name=Ada&consent=true", 415),
    ):
        answer = running.ask("POST", "/v1/audio/voices", body, Content_Type=content_type)
        assert answer.status == status, (content_type, body[:60], answer.content)
        assert answer.error["message"]
    assert saved(running)["id"]


WAV, OGG = recording(1.5), recording(1.5, kind="OGG")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=300),
        st.sampled_from([WAV, OGG]).flatmap(
            lambda whole: st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=40)).map(
                lambda at: whole[: at[0]] + at[1] + whole[at[0] + len(at[1]) :]
            )
        ),
        st.integers(0, len(OGG)).map(lambda length: OGG[:length]),
    )
)
def test_any_upload_is_a_voice_or_refused(fuzzed: Service, content: bytes) -> None:
    answer = send_form(fuzzed, content)
    assert answer.status in (201, 400), answer.content
    if answer.status == 201:
        assert fuzzed.ask("DELETE", f"/v1/audio/voices/{answer.json['id']}").status == 200
    else:
        assert answer.error["param"] == "audio"


def test_rename_and_remove(running: Service) -> None:
    voice = saved(running)
    place = f"/v1/audio/voices/{voice['id']}"
    renamed = running.ask("PATCH", place, {"name": "Bob"})
    assert (renamed.status, renamed.json) == (200, {**voice, "name": "Bob"})
    assert running.speak("Hello.", voice="Ada").error["code"] == "unknown_voice"
    for body, word in (
        ({"name": 3}, "string"),
        ({}, "missing"),
        ({"name": "x", "id": "y"}, "no field"),
        ({"name": ""}, "1 to 64"),
    ):
        answer = running.ask("PATCH", place, body)
        assert (answer.status, word in answer.error["message"]) == (400, True), answer.content
    for body in (b"", b"[]", b'"x"', b"{", b'{"name": "\\ud800"}', b"\xff", b"[" * 100_000):
        assert running.ask("PATCH", place, body).status == 400
    assert running.ask("PATCH", place, b"name=x", Content_Type="text/plain").status == 415
    assert running.ask("DELETE", place).json == {"id": voice["id"], "object": "voice", "deleted": True}
    assert listed(running) == []
    for method, body in (("GET", None), ("PATCH", {"name": "Cyd"}), ("DELETE", None)):
        answer = running.ask(method, place, body)
        assert (answer.status, answer.error["code"]) == (404, "no_such_voice")
    assert running.speak("Hello.", voice=voice["id"]).error["code"] == "unknown_voice"


@pytest.mark.parametrize(
    "voice_id", ["..", "%2e%2e%2f%2e%2e%2fetc", ".new-voice_0123456789abcdef", "voice_%00", "Ada"]
)
def test_only_an_id_of_ours_names_a_voice(running: Service, tmp_path: Path, voice_id: str) -> None:
    saved(running)
    before = sorted(tmp_path.rglob("*"))
    for method, body in (("GET", None), ("PATCH", {"name": "Cyd"}), ("DELETE", None)):
        assert running.ask(method, f"/v1/audio/voices/{voice_id}", body).status in (404, 405)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_that_a_speaker_an_alias_or_another_voice_has_is_taken(tmp_path: Path) -> None:
    base = StandInBase()
    with service(more=[source("base", base)], voices_directory=tmp_path) as running:
        saved(running)
        base.listened = 0
        for name in ("Vivian", "alloy", "ADA"):
            answer = send_form(running, name=name)
            assert (answer.status, answer.error["param"]) == (400, "name")
        assert base.listened == 0, "it is known before anything is computed"


def test_who_is_removed_while_speaking_is_heard_to_the_end_and_then_forgotten(tmp_path: Path) -> None:
    forgotten: list[VoicePrompt] = []
    engine = StandInBase()
    with (
        cloning(tmp_path, engine, forget=forgotten.append, queue_size=4) as (running, _),
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        voice = saved(running)
        whole = sound(running, voice="Ada")
        engine.hold_at = 1
        engine.go.clear()
        speaking = pool.submit(running.speak, "One.", voice="Ada", response_format="pcm")
        wait_for(lambda: engine.utterances[-1].pieces == 1, "the first piece")
        waiting = pool.submit(running.speak, "Two.", voice="Ada", response_format="pcm")
        wait_for(lambda: running.lifecycle.main.load.waiting == 1, "the second request waits")
        assert running.ask("DELETE", f"/v1/audio/voices/{voice['id']}").status == 200
        assert len(forgotten) == 1
        assert running.speak("Three.", voice="Ada").error["code"] == "unknown_voice"
        engine.go.set()
        assert [future.result(10).content for future in (speaking, waiting)] == [whole, whole]


def test_a_backup_goes_to_another_server(running: Service, tmp_path: Path) -> None:
    ada, bob = saved(running, ref_text="Some words."), saved(running, recording(seed=1), name="Bob")
    export = running.ask("GET", "/v1/audio/voices/export")
    assert (export.status, export.headers["content-type"]) == (200, "application/octet-stream")
    assert "voices.safetensors" in export.headers["content-disposition"]
    spoken = sound(running, voice="Bob")
    with cloning(tmp_path / "elsewhere") as (other, engine):
        take = {"Content_Type": "application/octet-stream"}
        imported = other.ask("POST", "/v1/audio/voices/import", export.content, **take)
        assert (imported.status, imported.json) == (200, {"added": [ada["id"], bob["id"]], "unchanged": []})
        assert listed(other) == listed(running)
        assert sound(other, voice="Bob") == spoken
        again = other.ask("POST", "/v1/audio/voices/import", export.content, **take)
        assert again.json == {"added": [], "unchanged": [ada["id"], bob["id"]]}
        damaged = other.ask("POST", "/v1/audio/voices/import", export.content[:-1], **take)
        assert (damaged.status, damaged.error["param"]) == (400, "body")
        assert other.ask("POST", "/v1/audio/voices/import", export.content).status == 415
        assert engine.listened == 0


def test_curl_as_the_readme_has_it(running: Service, tmp_path: Path) -> None:
    (tmp_path / "me.wav").write_bytes(recording())
    place = f"http://127.0.0.1:{running.port}/v1/audio/voices"
    curl = ["curl", "-sS", "--fail-with-body"]
    form = ["-F", "name=Ada", "-F", "consent=true", "-F", "ref_text=Some words.", "-F", "audio=@me.wav"]
    backup = ["-H", "Content-Type: application/octet-stream", "--data-binary", "@voices.safetensors"]
    for arguments in (
        [place, *form],
        [f"{place}/export", "-o", "voices.safetensors"],
        [f"{place}/import", *backup],
    ):
        subprocess.run([*curl, *arguments], cwd=tmp_path, check=True, capture_output=True)
    assert [voice["name"] for voice in listed(running)] == ["Ada"]


def test_without_a_place_it_is_said_that_there_is_none() -> None:
    with cloning(None) as (running, engine):
        answer = send_form(running)
        assert (answer.status, answer.error["code"]) == (501, "no_voice_directory")
        assert "voices_directory" in answer.error["message"]
        assert (engine.listened, listed(running)) == (0, [])


def test_a_full_store_is_507_before_anything_is_computed(tmp_path: Path) -> None:
    with cloning(tmp_path, max_voices=1) as (running, engine):
        saved(running)
        answer = send_form(running, name="Bob")
        assert (answer.status, answer.error["code"]) == (507, "storage_full")
        assert "max_voices" in answer.error["message"]
        assert engine.listened == 1


@pytest.mark.parametrize(
    ("number", "status", "code"), [(errno.ENOSPC, 507, "storage_full"), (errno.EIO, 503, "storage_fault")]
)
def test_a_disk_that_does_not_take_it_is_told_and_the_next_request_works(
    running: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, status: int, code: str
) -> None:
    def write(file: Path, content: bytes) -> None:
        raise OSError(number, os.strerror(number), str(file))

    with monkeypatch.context() as full:
        full.setattr(files, "_write", write)
        answer = send_form(running)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert str(tmp_path).encode() not in answer.content
    assert (listed(running), list((tmp_path / "voices").iterdir())) == ([], [])
    assert saved(running)["id"]


def test_what_the_engine_says_of_a_recording_is_told_in_the_names_of_the_form(
    base: tuple[Service, StandInBase],
) -> None:
    running, engine = base
    engine.listening_fault = InputTooLong("the text of the recording is too long", param="clone")
    assert send_form(running).error["param"] == "audio"
    engine.listening_fault = DeviceFault("HIP error: planted")
    assert send_form(running).status == 500
    assert running.states[-1].state == "broken"


def test_listening_has_its_turn_like_speech(base: tuple[Service, StandInBase]) -> None:
    """It takes a slot, waits for it, and its client may give up."""
    running, engine = base
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        saved(running)
        engine.go.clear()
        speaking = pool.submit(running.speak, "One.", voice="Ada")
        wait_for(lambda: running.lifecycle.main.load.speaking == 1, "somebody speaks")
        saving = pool.submit(send_form, running, name="Bob")
        wait_for(lambda: running.lifecycle.main.load.waiting == 1, "the recording waits")
        assert engine.listened == 1
        engine.go.set()
        assert (speaking.result(10).status, saving.result(10).status) == (200, 201)
    wait_for(lambda: running.lifecycle.main.load.speaking == 0, "all slots are free")


def test_a_client_that_sends_half_a_form_leaves_nothing(running: Service) -> None:
    with socket.create_connection(("127.0.0.1", running.port)) as client:
        client.sendall(
            b"POST /v1/audio/voices HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: 100000\r\n\r\n--x\r\n"
        )
    assert listed(running) == []
    assert saved(running)["id"]


def test_a_designed_voice_is_heard_once_and_kept(tmp_path: Path) -> None:
    base, design = StandInBase(), StandInDesign()
    more = [source("base", base), source("design", design, at_start=False)]
    body = {"name": "Narrator", "design": "A deep, calm voice.", "text": "This is how I sound.", "seed": 7}
    with service(more=more, voices_directory=tmp_path) as running:
        answer = running.ask("POST", "/v1/audio/voices", body)
        assert answer.status == 201, answer.content
        voice = answer.json
        assert (voice["kind"], voice["mode"], voice["consent"]) == ("designed", "in-context", None)
        assert (voice["ref_text"], voice["model"]) == ("This is how I sound.", "base")
        assert (design.said.instructions, design.said.text, design.said.seed) == (
            "A deep, calm voice.",
            "This is how I sound.",
            7,
        )
        assert sound(running, voice="Narrator")
        for change, param in (
            ({"text": ""}, "text"),
            ({"design": " "}, "design"),
            ({"seed": -1}, "seed"),
            ({"consent": True}, "consent"),
            ({"name": "vivian"}, "name"),
            ({"language": "klingon"}, "language"),
        ):
            refused = running.ask("POST", "/v1/audio/voices", {**body, "name": "Other", **change})
            assert (refused.status, refused.error["param"]) == (400, param), refused.content
        design.finish = "length"
        cut = running.ask("POST", "/v1/audio/voices", {**body, "name": "Other"})
        assert (cut.status, cut.error["param"]) == (400, "text")
        design.finish, design.level = "stop", 0.0
        silent = running.ask("POST", "/v1/audio/voices", {**body, "name": "Other"})
        assert (silent.status, silent.error["param"]) == (400, "design")
        assert [voice["name"] for voice in listed(running) if voice["kind"] == "designed"] == ["Narrator"]


@pytest.mark.parametrize(("others", "word"), [([StandInBase()], "VoiceDesign"), ([StandInDesign()], "Base")])
def test_a_design_needs_both_kinds_of_checkpoints(tmp_path: Path, others: list[Any], word: str) -> None:
    body = {"name": "Narrator", "design": "A deep voice.", "text": "This is how I sound."}
    more = [source(engine.model_type, engine) for engine in others]
    with service(more=more, voices_directory=tmp_path) as running:
        answer = running.ask("POST", "/v1/audio/voices", body)
        assert (answer.status, answer.error["code"]) == (400, "not_supported_by_model")
        assert f"{word} checkpoint" in answer.error["message"]
