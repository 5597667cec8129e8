"""A saved voice on the real code: the same sound, to the bit, before and after a restart and as without saving."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from server_process import ServerProcess, serving
from stand_in_voices import recording, sent_form

pytestmark = pytest.mark.slow


def spoken(server: ServerProcess, voice: object) -> bytes:
    body = {"input": "Go on.", "voice": voice, "response_format": "pcm", "seed": 3}
    answer = server.ask("POST", "/v1/audio/speech", body)
    assert answer.status == 200, answer.content
    return answer.content


def test_it_outlives_the_process(tmp_path: Path, tiny_checkpoint: Path, base_checkpoint: Path) -> None:
    """The base checkpoint, which nobody names, is loaded by the first request that needs one."""
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
