"""Saved voices on the real code: what they sound like before and after a restart."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from server_process import ServerProcess, serving
from stand_in_voices import recording, sent_form

from .test_process import same_sound

pytestmark = pytest.mark.slow


DESIGN, SENTENCE = "A deep, calm voice.", "This is how I sound when I speak."


def spoken(server: ServerProcess, voice: object, text: str = "Go on.", seed: int = 3) -> bytes:
    body = {"input": text, "voice": voice, "response_format": "pcm", "seed": seed, "stream": False}
    answer = server.ask("POST", "/v1/audio/speech", body)
    assert answer.status == 200, answer.content
    assert answer.headers["x-finish-reason"] in ("stop", "length")
    return answer.content


def test_it_outlives_the_process(tmp_path: Path, tiny_checkpoint: Path, base_checkpoint: Path) -> None:
    """To the bit, and as without saving. The base checkpoint, which nobody names, is loaded when it is needed."""
    settings = {
        "model": tiny_checkpoint,
        "more_models": f"base={base_checkpoint}",
        "load_models": "first_use",
        # Upstream's decoder takes the speech as a whole: no rounding depends on how it is cut.
        "engine": "reference",
        "max_audio_seconds": 0.8,
    }
    state = {"STATE_DIRECTORY": str(tmp_path / "state")}
    voices: dict[str, str] = {}
    with serving(tmp_path / "first.log", state, **settings) as server:
        server.wait_until_ready()
        for name, words in (("Plain", None), ("In context", "Some words.")):
            content_type, body = sent_form(recording(), name=name, ref_text=words)
            answer = server.ask("POST", "/v1/audio/voices", body, Content_Type=content_type)
            assert answer.status == 201, answer.content
            voices[name] = answer.json["id"]
        audio = base64.b64encode(recording()).decode()
        once = {"Plain": spoken(server, {"audio": audio})}
        once["In context"] = spoken(server, {"audio": audio, "text": "Some words."})
        assert len(set(once.values())) == 2
        for name, voice_id in voices.items():
            assert spoken(server, voice_id) == once[name]
        backup = server.ask("GET", "/v1/audio/voices/export").content
    # It was ended by SIGKILL.
    with serving(tmp_path / "second.log", state, **settings) as server:
        server.wait_until_ready()
        for name in voices:
            assert spoken(server, name) == once[name]
        for voice_id in voices.values():
            assert server.ask("DELETE", f"/v1/audio/voices/{voice_id}").status == 200
        take = {"Content_Type": "application/octet-stream"}
        assert server.ask("POST", "/v1/audio/voices/import", backup, **take).status == 200
        assert spoken(server, "In context") == once["In context"]


def test_a_designed_one_is_heard_saved_and_outlives_the_process(
    tmp_path: Path, design_checkpoint: Path, base_checkpoint: Path
) -> None:
    """Two models in one engine process, by their frames: one makes the voice, the other keeps and speaks it."""
    settings = {"model": design_checkpoint, "more_models": f"base={base_checkpoint}", "slots": 1}
    state = {"STATE_DIRECTORY": str(tmp_path / "state")}
    with serving(tmp_path / "first.log", state, **settings) as server:
        server.wait_until_ready()
        tried = spoken(server, {"design": DESIGN}, SENTENCE)
        assert len(tried) > 2 * 24_000
        assert np.frombuffer(tried, "<i2").std() > 500
        wanted = {"name": "Narrator", "design": DESIGN, "text": SENTENCE, "seed": 3}
        answer = server.ask("POST", "/v1/audio/voices", wanted)
        assert answer.status == 201, answer.content
        voice = answer.json
        assert (voice["kind"], voice["mode"], voice["model"]) == ("designed", "in-context", "base")
        by_name = spoken(server, "Narrator")
        assert same_sound(spoken(server, voice["id"]), by_name)
        assert not same_sound(spoken(server, "Narrator", seed=4), by_name)
    with serving(tmp_path / "second.log", state, **settings) as server:
        server.wait_until_ready()
        assert server.ask("GET", f"/v1/audio/voices/{voice['id']}").json == voice
        assert same_sound(spoken(server, "Narrator"), by_name)
