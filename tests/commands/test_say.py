"""``qwen3-tts say`` against the real server over an engine that hums."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from qwen3_tts_service.api.auth import KeyRing
from qwen3_tts_service.cli import group
from qwen3_tts_service.commands import say
from qwen3_tts_service.commands.say import progress_line
from qwen3_tts_service.commands.server_options import EXIT_STATUS
from qwen3_tts_service.errors import EngineError
from server_process import wait_for
from stand_in_engine import TONE, Service, service

HUM = (TONE * 32767).astype("<i2").tobytes()


@pytest.fixture
def running() -> Iterator[Service]:
    with service(queue_size=1) as started:
        yield started


def run(port: int, *arguments: str, stdin: bytes | None = None) -> Result:
    address = f"http://127.0.0.1:{port}"
    return CliRunner().invoke(group, ["say", "--server", address, *arguments], input=stdin)


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def samples(pcm: bytes) -> np.ndarray:
    return np.frombuffer(pcm, "<i2")


def test_a_file_is_whole_and_tells_its_length(running: Service, tmp_path: Path) -> None:
    running.engine.repeat = 5
    file = tmp_path / "speech.wav"
    result = run(running.port, "Hello.", "-o", str(file))
    assert result.exit_code == 0, result.output
    assert "speech.wav: 0.50 s of sound, voice vivian, seed " in result.stderr
    with wave.open(str(file)) as sound:
        assert sound.getnframes() == 5 * len(TONE)
        pcm = sound.readframes(sound.getnframes())
    assert np.abs(samples(pcm).astype(int) - samples(5 * HUM)).max() <= 1
    assert file.stat().st_size == 44 + len(pcm)
    assert list(tmp_path.iterdir()) == [file]


def test_a_pipe_gets_the_sound_and_nothing_else(running: Service) -> None:
    for arguments in (["--format", "pcm"], ["--format", "pcm", "-o", "-"]):
        result = run(running.port, "Hello.", *arguments)
        assert result.exit_code == 0, result.stderr
        assert np.abs(samples(result.stdout_bytes).astype(int) - samples(HUM)).max() <= 1
    assert run(running.port, "Hello.").stdout_bytes[:4] == b"RIFF"


def test_a_link_leads_to_the_file_and_a_device_takes_the_sound(running: Service, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (tmp_path / "link.mp3").symlink_to(there / "speech.mp3")
    assert run(running.port, "Hello.", "-o", str(tmp_path / "link.mp3")).exit_code == 0
    assert (tmp_path / "link.mp3").is_symlink()
    assert (there / "speech.mp3").stat().st_size > 1000
    assert run(running.port, "Hello.", "-o", "/dev/null", "--format", "mp3").exit_code == 0
    assert Path("/dev/null").is_char_device()


def test_the_text_comes_from_standard_input_or_a_file(running: Service, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("From a file.", encoding="utf-8-sig")
    assert run(running.port, "--file", str(text)).exit_code == 0
    assert run(running.port, "-", stdin="Grüße.".encode()).exit_code == 0
    assert running.engine.spoken == ["From a file.", "Grüße."]


def test_options_reach_the_server(running: Service, tmp_path: Path) -> None:
    running.engine.repeat = 20
    file = tmp_path / "speech"
    wanted = ["--voice", "ryan", "--seed", "7", "--speed", "2", "--language", "english", "--format", "flac"]
    result = run(running.port, "Hello.", "-o", str(file), "--json", "--model", "stand-in", *wanted)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["voice"], told["seed"], told["finish_reason"]) == ("ryan", 7, "stop")
    assert told["audio_seconds"] == pytest.approx(1, abs=0.1)
    assert (told["output"], told["bytes"]) == (str(file), file.stat().st_size)
    assert file.read_bytes()[:4] == b"fLaC"


def test_a_speech_that_was_cut_off_says_so(running: Service, tmp_path: Path) -> None:
    running.engine.finish = "length"
    result = run(running.port, "Hello.", "-o", str(tmp_path / "a.mp3"))
    assert (result.exit_code, "cut off" in result.stderr) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "either TEXT"),
        (["Hello.", "--file", "/dev/null"], "either TEXT"),
        (["Hello.", "-o", "a.wav", "--play"], "either --play or -o"),
        (["Hello.", "--play", "--format", "mp3"], "--format is for -o"),
        (["Hello.", "-o", "a.txt"], "a.txt does not end with a format's name"),
        (["Hello.", "--json"], "add -o FILE"),
        (["-", "-o", "a.wav"], "not UTF-8"),
        (["Hello.", "-o", "a.wav", "--speed", "5"], "--speed"),
        (["Hello.", "-o", "a.wav", "--server", "8100"], "--server"),
        (["Hello.", "-o", "a.wav", "--key", "schlüssel"], "--key"),
    ],
)
def test_wrong_usage_is_2(arguments: list[str], words: str) -> None:
    result = run(closed_port(), *arguments, stdin=b"\xff\xfe")
    assert (result.exit_code, words in result.stderr) == (2, True), result.stderr


def test_what_failed_is_told_by_the_exit_status(running: Service, tmp_path: Path) -> None:
    file = str(tmp_path / "speech.wav")
    nobody = run(closed_port(), "Hello.", "-o", file, "--json")
    assert (nobody.exit_code, json.loads(nobody.stdout)["error"]["code"]) == (3, "unreachable")
    refused = run(running.port, "Hello.", "-o", file, "--voice", "nobody", "--json")
    assert (refused.exit_code, json.loads(refused.stdout)["error"]["code"]) == (4, "unknown_voice")
    assert "choose from vivian, ryan" in refused.stderr
    unwritable = run(running.port, "Hello.", "-o", str(tmp_path / "no" / "speech.wav"))
    assert (unwritable.exit_code, "No such file" in unwritable.stderr) == (1, True)
    running.engine.go.clear()
    waiting = [threading.Thread(target=running.speak, args=("Wait.",)) for _ in range(2)]
    for number, thread in enumerate(waiting):
        thread.start()
        wait_for(lambda: running.engine.begun, "the first request runs")
        wait_for(lambda n=number: running.lifecycle.main.load.waiting == n, f"{number} requests wait")
    busy = run(running.port, "Hello.", "-o", file, "--json")
    assert (busy.exit_code, json.loads(busy.stdout)["error"]["code"]) == (6, "queue_full")
    assert json.loads(busy.stdout)["error"]["retry_after_seconds"] >= 1
    running.engine.go.set()
    for thread in waiting:
        thread.join()
    assert not any(tmp_path.iterdir())


def test_a_key_is_taken_from_the_variable_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, key = tmp_path / "speech.wav", tmp_path / "key"
    key.write_text("right\n")
    with service(KeyRing((("me", hashlib.sha256(b"right").digest()),))) as running:
        assert run(running.port, "Hello.", "-o", str(file)).exit_code == 5
        monkeypatch.setenv("QWEN3_TTS_CLIENT_KEY", "wrong")
        assert run(running.port, "Hello.", "-o", str(file)).exit_code == 5
        assert not file.exists()
        assert run(running.port, "Hello.", "-o", str(file), "--key-file", str(key)).exit_code == 0
        monkeypatch.setenv("QWEN3_TTS_CLIENT_KEY", "right")
        monkeypatch.setenv("QWEN3_TTS_CLIENT_SERVER", f"http://127.0.0.1:{running.port}")
        assert CliRunner().invoke(group, ["say", "Hello.", "-o", str(file)]).exit_code == 0


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (EngineError("the talker stumbled"), "broke off: the talker stumbled"),
        # What nobody expected is told to the journal alone, and the connection closes.
        (RuntimeError("a bug"), "broke off: "),
    ],
)
def test_what_broke_off_leaves_the_old_file(
    running: Service, tmp_path: Path, fault: Exception, words: str
) -> None:
    running.engine.repeat, running.engine.fault_at = 50, 20
    running.engine.fault = fault
    file = tmp_path / "speech.wav"
    file.write_bytes(b"older")
    result = run(running.port, "Hello.", "-o", str(file))
    assert (result.exit_code, words in result.stderr) == (7, True), result.stderr
    assert file.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_leaves_nothing_and_stops_the_server(
    running: Service, tmp_path: Path, number: int, status: int
) -> None:
    running.engine.repeat, running.engine.hold_at = 50, 20
    running.engine.go.clear()
    # Whoever runs the tests in the background may have it ignored, which is inherited.
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from qwen3_tts_service.cli import main; main()"
    )
    address = f"http://127.0.0.1:{running.port}"
    process = subprocess.Popen(
        [sys.executable, "-c", script, "say", "Hello.", "-o", str(tmp_path / "a.wav"), "--server", address]
    )
    wait_for(lambda: any(file.stat().st_size for file in tmp_path.iterdir()), "the first sound", 30)
    assert not (tmp_path / "a.wav").exists()
    process.send_signal(number)
    assert process.wait(30) == status
    assert not any(tmp_path.iterdir())
    wait_for(lambda: running.engine.utterances[-1].left, "the place is free again")


def planted_player(directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    player = directory / "aplay"
    player.write_text(f"#!/bin/sh\n{script}\n")
    player.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    monkeypatch.setattr("qwen3_tts_service.commands.outputs.PLAYERS", {"aplay": ("pcm", ("-q",))})


def test_a_player_is_fed_through_a_pipe(
    running: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted_player(tmp_path, f'echo "$@" > {tmp_path}/asked; cat > {tmp_path}/heard', monkeypatch)
    running.engine.repeat = 30
    assert run(running.port, "Hello.", "--play").exit_code == 0
    heard = samples((tmp_path / "heard").read_bytes())
    assert np.abs(heard.astype(int) - samples(30 * HUM)).max() <= 1
    assert (tmp_path / "asked").read_text() == "-q\n"


def test_a_player_that_fails_is_quoted(
    running: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted_player(tmp_path, "echo 'no soundcards found' >&2; exit 1", monkeypatch)
    result = run(running.port, "Hello.", "--play")
    assert (result.exit_code, "aplay cannot play: no soundcards found" in result.stderr) == (1, True)


def test_without_a_player_the_way_out_is_told(running: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    result = run(running.port, "Hello.", "--play", "--json")
    assert (result.exit_code, "no player is installed (paplay, aplay, ffplay)" in result.stderr) == (1, True)
    assert json.loads(result.stdout)["error"]["code"] == "output_error"
    assert running.engine.begun == []


def test_whoever_reads_the_pipe_may_leave(running: Service) -> None:
    running.engine.repeat = 200
    command = f"{sys.executable} -m qwen3_tts_service.cli say Hello. --server http://127.0.0.1:{running.port}"
    environment = os.environ | {"PYTHONPATH": str(Path(say.__file__).parents[2])}
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -c 10; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        errors="replace",
    )
    assert (done.returncode, done.stderr) == (1, "qwen3-tts: whoever read standard output has gone away\n")


def test_a_terminal_sees_how_much_is_spoken(
    running: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(say, "_PROGRESS_EVERY_S", 0.0)
    text = b"First part.\n\nSecond part.\n\nThird part."
    file = str(tmp_path / "a.wav")
    assert "\r" not in run(running.port, "-", "-o", file, stdin=text).stderr
    monkeypatch.setattr(say, "on_terminal", lambda: True)
    seen = run(running.port, "-", "-o", file, stdin=text).stderr
    assert " of 3, " in seen
    # Each line takes the place of the one before; the last one is what stays.
    *lines, summary = seen.split("\r")
    assert not any("\n" in line for line in lines)
    assert "s of sound, voice vivian" in summary


@pytest.mark.parametrize(
    ("parts", "part", "line"),
    [
        (1, 0, "2.0 s of sound"),
        (4, 0, "[------------------------] part 1 of 4, 2.0 s of sound"),
        (4, 3, "[##################------] part 4 of 4, 2.0 s of sound"),
    ],
)
def test_progress_counts_parts(parts: int, part: int, line: str) -> None:
    assert progress_line({"audio_seconds": 2.04, "parts": parts, "part": part}) == line


def test_every_exit_status_is_documented() -> None:
    said = CliRunner().invoke(group, ["say", "--help"]).output
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for _, status, _ in EXIT_STATUS:
        assert f"\n    {status}    " in said
        assert f"\n| {status} | " in readme
