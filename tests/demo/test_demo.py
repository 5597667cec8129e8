"""``make demo`` as a newcomer runs it: from the printed curl line to a host that is gone again."""

from __future__ import annotations

import io
import subprocess
import time
import urllib.request
import wave
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def make(target: str) -> str:
    started = time.monotonic()
    done = subprocess.run(
        ["make", "--no-print-directory", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    print(f"\nmake {target}: {time.monotonic() - started:.0f} s\n{done.stdout}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def printed() -> object:
    """What a first ``make demo`` printed; the host is removed afterwards whatever happens."""
    make("demo-down")
    try:
        yield make("demo")
    finally:
        make("demo-down")


def curl_line(text: str) -> str:
    [line] = [line for line in text.splitlines() if line.startswith("$ curl ")]
    return line.removeprefix("$ ")


def test_it_ends_with_status_curl_line_and_figures(printed: str) -> None:
    assert "Active: active (running)" in printed
    assert curl_line(printed)
    for word in ("s of sound", "loudness", "compute/audio", "NOISE"):
        assert word in printed


def test_the_printed_curl_line_works_from_a_shell(printed: str, tmp_path: Path) -> None:
    command, _, _ = curl_line(printed).rpartition(" -o ")
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, check=True)
    with wave.open(io.BytesIO(done.stdout)) as file:
        assert file.getframerate() == 24000
        assert file.getnframes() > 0


def test_the_printed_address_is_the_pages(printed: str) -> None:
    [line] = [line for line in printed.splitlines() if line.startswith("In a browser")]
    address = line.split()[6]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=30) as answer:
        assert b"<title>Qwen3-TTS</title>" in answer.read()


def test_a_second_run_uses_what_is_there(printed: str) -> None:
    assert "Active: active (running)" in make("demo")


def test_without_a_host_the_same_job_is_done() -> None:
    printed = make("demo-local")
    for word in ("s of sound", "loudness", "compute/audio", "NOISE"):
        assert word in printed
