"""``qwen3-tts voices`` against the real server over stand-ins that clone and design."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from qwen3_tts_service.cli import group
from stand_in_engine import Service, StandInEngine, service
from stand_in_voices import StandInBase, StandInDesign, recording, source


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Service]:
    more = [source("base", StandInBase()), source("design", StandInDesign())]
    with service(
        source=source("speakers", StandInEngine()), more=more, voices_directory=tmp_path / "voices"
    ) as started:
        yield started


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    file = tmp_path / "ada.wav"
    file.write_bytes(recording())
    return file


def run(running: Service, *arguments: str | Path) -> Result:
    address = f"http://127.0.0.1:{running.port}"
    return CliRunner().invoke(group, ["voices", *map(str, arguments), "--server", address])


def told(running: Service, *arguments: str | Path) -> dict[str, object]:
    result = run(running, *arguments, "--json")
    assert result.exit_code == 0, result.output
    answer: dict[str, object] = json.loads(result.stdout)
    return answer


def test_a_voice_from_a_recording_is_saved_shown_spoken_with_renamed_and_removed(
    running: Service, wav: Path, tmp_path: Path
) -> None:
    words = "What Ada says: „Grüße“."
    added = told(running, "add", "Ada", wav, "--consent", "--ref-text", words, "--language", "english")
    assert (added["name"], added["mode"], added["ref_text"]) == ("Ada", "in-context", words)
    assert (added["consent"], added["language"], added["kind"]) == (True, "english", "cloned")
    assert told(running, "show", "ada") == told(running, "show", str(added["id"])) == added
    assert "mode: in-context" in run(running, "show", "Ada").stdout
    address = ["--server", f"http://127.0.0.1:{running.port}"]
    spoken = CliRunner().invoke(
        group, ["say", "Hi.", "--voice", "Ada", "-o", str(tmp_path / "a.wav"), "--json", *address]
    )
    assert json.loads(spoken.stdout)["voice"] == added["id"]
    assert told(running, "rename", "Ada", "Eve")["name"] == "Eve"
    assert told(running, "remove", "Eve") == {"id": added["id"], "object": "voice", "deleted": True}
    gone = run(running, "remove", "Eve")
    assert (gone.exit_code, "'Eve' is not known" in gone.stderr) == (4, True)


def test_a_described_voice_is_saved(running: Service) -> None:
    said = "This is how I sound."
    voice = told(running, "design", "Narrator", "A deep, calm voice.", "--text", said, "--seed", "7")
    assert (voice["name"], voice["kind"], voice["ref_text"]) == ("Narrator", "designed", said)


def test_the_list_is_a_table_or_json(running: Service, wav: Path) -> None:
    voice = told(running, "add", "Ada Lovelace", wav, "--consent")
    table = [line.split("  ") for line in run(running, "list").stdout.splitlines()]
    rows = [[cell.strip() for cell in line if cell.strip()] for line in table]
    assert rows[0] == ["NAME", "KIND", "LANGUAGE", "MODEL", "ID"]
    assert ["vivian", "speaker", "-", "speakers", "vivian"] in rows
    assert ["Ada Lovelace", "cloned", "-", "base", voice["id"]] in rows
    listed = running.ask("GET", "/v1/audio/voices").json
    assert told(running, "list") == listed


def test_all_voices_go_into_a_file_and_come_back(running: Service, wav: Path, tmp_path: Path) -> None:
    voice = told(running, "add", "Ada", wav, "--consent")
    backup = tmp_path / "backup"
    assert told(running, "export", "-o", backup) == {"output": str(backup), "bytes": backup.stat().st_size}
    assert run(running, "export", "-o", "-").stdout_bytes == backup.read_bytes()
    assert told(running, "import", backup) == {"added": [], "unchanged": [voice["id"]]}
    told(running, "remove", "Ada")
    assert run(running, "import", backup).stdout.startswith(f"added: {voice['id']}\n")
    assert told(running, "show", "Ada") == voice


def test_nothing_is_saved_without_consent(running: Service, wav: Path) -> None:
    refused = run(running, "add", "Ada", wav)
    assert (refused.exit_code, "--consent" in refused.stderr) == (2, True)
    assert all(voice["kind"] != "cloned" for voice in told(running, "list")["voices"])  # type: ignore[attr-defined]


def test_a_speaker_of_the_checkpoint_stays(running: Service) -> None:
    for arguments in (["remove", "ryan"], ["rename", "ryan", "Eve"]):
        refused = run(running, *arguments)
        assert (refused.exit_code, "only saved voices change" in refused.stderr) == (4, True)


def test_what_the_server_says_of_a_recording_is_told(running: Service, tmp_path: Path) -> None:
    file = tmp_path / "ada.wav"
    file.write_bytes(recording(0.2))
    refused = run(running, "add", "Ada", file, "--consent", "--json")
    assert refused.exit_code == 4
    assert json.loads(refused.stdout)["error"]["param"] == "audio"
