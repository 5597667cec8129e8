"""``qwen3-tts doctor``: one real synthesis against a running server, judged by what comes back."""

from __future__ import annotations

import array
import http.client
import io
import json
import math
import time
import urllib.parse
import wave
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import click

from ..errors import EngineError, Unavailable

_SENTENCE = "This is a check of the speech service."
_SEED = 1
#: What a sentence of this length can last (seconds), and how loud speech can be (dB below full scale).
_DURATION_S = (0.3, 160.0)
_LOUDNESS_DBFS = (-60.0, -1.0)


@dataclass(frozen=True)
class Finding:
    """What the server said and what its sound is like."""

    model: str
    device: str
    voice: str | None
    #: Seconds of sound, its root mean square in dB below full scale, seconds from request to last byte.
    duration_s: float
    loudness_dbfs: float
    request_s: float
    self_check: str


@click.command(name="doctor")
@click.option("--server", default="http://127.0.0.1:8100", show_default=True, help="Address of the server.")
@click.option(
    "--key-file", type=click.File("rb"), help="File that holds the API key; - reads standard input."
)
@click.option("--timeout", default=300.0, show_default=True, help="Longest wait for the speech, in seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(server: str, key_file: BinaryIO | None, timeout: float, as_json: bool) -> int:
    """Ask a running server for one sentence and check what comes back.

    Exit status 0 when the server is ready and the WAV has a plausible length and loudness, else 1.
    """
    key = _key(key_file) if key_file else None
    finding = examine(Client(server, key, timeout))
    if as_json:
        click.echo(json.dumps(asdict(finding)))
    else:
        click.echo(f"{server}: {finding.model} on {finding.device}, self-check {finding.self_check}")
        click.echo(
            f"spoke {finding.duration_s:.2f} s of sound at {finding.loudness_dbfs:.1f} dBFS "
            f"in {finding.request_s:.2f} s, compute/audio {finding.request_s / finding.duration_s:.2f}"
        )
    return 0


def _key(file: BinaryIO) -> str:
    try:
        key = file.read().decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise click.BadParameter("an API key is plain ASCII", param_hint="--key-file") from error
    if not key or not key.isprintable():
        raise click.BadParameter("expected one API key, on one line", param_hint="--key-file")
    return key


class Client:
    """Plain HTTP without proxies: the server is named by its address."""

    def __init__(self, server: str, key: str | None, timeout_s: float) -> None:
        try:
            parts = urllib.parse.urlsplit(server)
            port = parts.port or 80
        except ValueError as error:
            raise click.BadParameter(f"{server!r}: {error}", param_hint="--server") from error
        if parts.scheme != "http" or not parts.hostname:
            raise click.BadParameter(f"{server!r} is no http://HOST:PORT", param_hint="--server")
        self._address = (parts.hostname, port)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout_s = timeout_s

    def ask(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
        """Send a request; returns status and body. Raises Unavailable when nobody answers."""
        connection = http.client.HTTPConnection(*self._address, timeout=self._timeout_s)
        try:
            if body is None:
                connection.request("GET", path, headers=self._headers)
            else:
                headers = {**self._headers, "Content-Type": "application/json"}
                connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            host, port = self._address
            raise Unavailable(
                f"{host}:{port}{path} does not answer: {error or type(error).__name__}; is the unit running?",
                retry_after_s=5.0,
            ) from error
        finally:
            connection.close()

    def ask_json(self, path: str, *fields: str) -> dict[str, Any]:
        """A GET whose answer must be 200 and JSON with ``fields``. Raises EngineError with what came instead."""
        status, content = self.ask(path)
        if status != 200:
            raise EngineError(f"{path} answers {status}: {content.decode(errors='replace')[:300].strip()}")
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not answer.keys() >= set(fields):
            raise EngineError(
                f"{path} is no answer of this service: {content.decode(errors='replace')[:300].strip()}"
            )
        return answer


def examine(client: Client) -> Finding:
    """Ask for readiness and one sentence. Raises EngineError or Unavailable saying what is wrong."""
    ready = client.ask_json("/ready", "model", "device", "self_check")
    voices = client.ask_json("/v1/audio/voices", "voices")["voices"]
    voice = voices[0]["id"] if voices else None
    body: dict[str, Any] = {"input": _SENTENCE, "response_format": "wav", "seed": _SEED}
    body |= {"voice": voice} if voice else {"instructions": "A calm voice."}
    started = time.monotonic()
    status, content = client.ask("/v1/audio/speech", body)
    request_s = time.monotonic() - started
    if status != 200:
        raise EngineError(
            f"/v1/audio/speech answers {status}: {content.decode(errors='replace')[:300].strip()}"
        )
    duration_s, loudness = measure(content)
    for name, value, (least, most) in (
        ("duration in seconds", duration_s, _DURATION_S),
        ("loudness in dBFS", loudness, _LOUDNESS_DBFS),
    ):
        if not least <= value <= most:
            raise EngineError(f"the speech's {name} is {value:.2f}, expected {least} to {most}")
    return Finding(
        model=ready["model"],
        device=ready["device"],
        voice=voice,
        duration_s=round(duration_s, 3),
        loudness_dbfs=round(loudness, 2),
        request_s=round(request_s, 3),
        self_check=ready["self_check"]["status"],
    )


def measure(content: bytes) -> tuple[float, float]:
    """Seconds and loudness (RMS, dBFS) of a 16-bit mono WAV. Raises EngineError when it is none."""
    try:
        with wave.open(io.BytesIO(content)) as file:
            shape = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            frames, data = file.getnframes(), file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise EngineError(f"the speech is no WAV: {error or 'it ends too early'}") from error
    if shape != (1, 2, 24000):
        raise EngineError(f"the WAV has channels, bytes a sample, Hz = {shape}, expected (1, 2, 24000)")
    if len(data) != 2 * frames:
        raise EngineError(f"the WAV is cut off: {len(data)} bytes of sound, its header says {2 * frames}")
    samples = array.array("h", data)
    if not samples:
        raise EngineError("the WAV is empty")
    mean_square = sum(sample * sample for sample in samples) / len(samples)
    return len(samples) / 24000, 10 * math.log10(mean_square / 32768**2) if mean_square else -math.inf
