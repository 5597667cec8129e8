"""Ask a running server for speech with curl, as a user would, and measure what came back."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from qwen3_tts_service.audio import wav
from qwen3_tts_service.errors import EngineError

from .steps import DemoError

SENTENCE = "Good morning. This machine speaks, and nothing left the house."


@dataclass(frozen=True)
class Measured:
    """What a WAV holds, and what it cost."""

    path: Path
    #: Seconds of sound.
    duration_s: float
    #: Root mean square, dB below full scale.
    loudness_dbfs: float
    #: Seconds from the request to the last byte.
    request_s: float

    @property
    def ratio(self) -> float:
        """Seconds of computing per second of sound; below 1 is faster than speech."""
        return self.request_s / self.duration_s


def first_voice(base: str, key: str | None) -> str:
    """The first speaker of the checkpoint that the server at ``base`` has loaded."""
    request = urllib.request.Request(f"{base}/v1/audio/voices")  # noqa: S310 - our own http address
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        return str(json.load(answer)["voices"][0]["id"])


def curl_command(base: str, key: str | None, voice: str, output: Path) -> str:
    """The command line that is printed and run: one string, ready for a shell."""
    body = json.dumps({"input": SENTENCE, "voice": voice, "response_format": "wav"})
    words = ["curl", "--fail-with-body", "-sS", "--noproxy", "*", f"{base}/v1/audio/speech"]
    if key:
        words += ["-H", f"Authorization: Bearer {key}"]
    words += ["-H", "Content-Type: application/json", "-d", body, "-o", str(output)]
    return shlex.join(words)


def fetch(command: str, output: Path) -> Measured:
    """Run the curl line and measure the WAV.

    Raises:
        DemoError: curl failed, or what came is not a WAV with sound in it.
    """
    output.unlink(missing_ok=True)
    started = time.monotonic()
    # A shell on purpose: exactly the line that is printed for the person's own shell.
    attempt = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    request_s = time.monotonic() - started
    if attempt.returncode:
        answer = output.read_text(errors="replace")[:1000] if output.exists() else ""
        raise DemoError(f"{command}\n{attempt.stderr}{answer}")
    return measure(output, request_s)


def measure(path: Path, request_s: float) -> Measured:
    """Duration and loudness of a 16-bit mono WAV.

    Raises:
        DemoError: not such a WAV, or silence.
    """
    try:
        sound = wav.measure(path.read_bytes())
    except EngineError as error:
        raise DemoError(f"{path}: {error.message}") from error
    if sound.loudness_dbfs == -math.inf:
        raise DemoError(f"{path} is silent")
    return Measured(path, sound.duration_s, sound.loudness_dbfs, request_s)


def report(measured: Measured) -> str:
    return (
        f"{measured.path}\n"
        f"  {measured.duration_s:.2f} s of sound, loudness {measured.loudness_dbfs:.1f} dBFS, "
        f"compute/audio ratio {measured.ratio:.2f} ({measured.request_s:.2f} s)\n"
        "  It is NOISE: the weights are random. The code, the sample rate and the service are the real ones."
    )
