"""``qwen3-tts doctor``: one real synthesis against a running server, judged by what comes back."""

from __future__ import annotations

import http.client
import json
import time
import urllib.parse
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import click

from ..audio import wav
from ..errors import EngineError, Unavailable

_SENTENCE = "This is a check of the speech service."
_SEED = 1
#: What a sentence of this length can last (seconds), and how loud speech can be (dB below full scale).
_DURATION_S = (0.3, 160.0)
_LOUDNESS_DBFS = (-60.0, -1.0)


#: As much of an answer as is taken to say that its sound has begun.
_FIRST_BYTES = 1 << 16
#: As much of an answer as is quoted.
_QUOTED = 300


@dataclass(frozen=True)
class Answer:
    """One answer; seconds from the request to the first and to the last byte of its body."""

    status: int
    content: bytes
    first_s: float
    request_s: float

    @property
    def text(self) -> str:
        """The beginning, for messages."""
        return self.content.decode(errors="replace")[:_QUOTED].strip()


@dataclass(frozen=True)
class Finding:
    """What the server said and what its sound is like."""

    model: str
    device: str
    voice: str | None
    #: Seconds of sound, its root mean square in dB below full scale, seconds from request to first and last byte.
    duration_s: float
    loudness_dbfs: float
    first_audio_s: float
    request_s: float
    #: How frames are computed: captured, compiled, eager; several where batch sizes differ.
    ways: str
    codec_way: str
    why_not_faster: str
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
        click.echo(
            f"{server}: {finding.model} on {finding.device}, frames {finding.ways or 'unknown'}, "
            f"codec {finding.codec_way or 'upstream'}, "
            f"self-check {finding.self_check}"
        )
        click.echo(
            f"spoke {finding.duration_s:.2f} s of sound at {finding.loudness_dbfs:.1f} dBFS "
            f"in {finding.request_s:.2f} s, the first after {finding.first_audio_s:.2f} s, "
            f"compute/audio {finding.request_s / finding.duration_s:.2f}"
        )
        if finding.why_not_faster:
            click.echo(f"it could be faster: {finding.why_not_faster}")
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

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Answer:
        """Send a request. Raises Unavailable when nobody answers, EngineError when the answer breaks off."""
        connection = http.client.HTTPConnection(*self._address, timeout=self._timeout_s)
        asked = time.monotonic()
        try:
            if body is None:
                connection.request("GET", path, headers=self._headers)
            else:
                headers = {**self._headers, "Content-Type": "application/json"}
                connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            first = response.read1(_FIRST_BYTES)
            first_s = time.monotonic() - asked
            return Answer(response.status, first + response.read(), first_s, time.monotonic() - asked)
        except http.client.IncompleteRead as error:
            raise EngineError(
                f"{path} broke off: the server's journal says why, under the request's id"
            ) from error
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
        said = self.ask(path)
        if said.status != 200:
            raise EngineError(f"{path} answers {said.status}: {said.text}")
        try:
            answer = json.loads(said.content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not answer.keys() >= set(fields):
            raise EngineError(f"{path} is no answer of this service: {said.text}")
        return answer


def examine(client: Client) -> Finding:
    """Ask for readiness and one sentence. Raises EngineError or Unavailable saying what is wrong."""
    ready = client.ask_json("/ready", "model", "device", "self_check")
    voices = client.ask_json("/v1/audio/voices", "voices")["voices"]
    # Those of the model that speaks when none is named; servers of one model may leave the name out.
    own = [voice["id"] for voice in voices if voice.get("model", ready["model"]) == ready["model"]]
    voice = own[0] if own else None
    body: dict[str, Any] = {"input": _SENTENCE, "response_format": "wav", "seed": _SEED}
    body |= {"voice": voice} if voice else {"instructions": "A calm voice."}
    answer = client.ask("/v1/audio/speech", body)
    if answer.status != 200:
        raise EngineError(f"/v1/audio/speech answers {answer.status}: {answer.text}")
    sound = wav.measure(answer.content)
    for name, value, (least, most) in (
        ("duration in seconds", sound.duration_s, _DURATION_S),
        ("loudness in dBFS", sound.loudness_dbfs, _LOUDNESS_DBFS),
    ):
        if not least <= value <= most:
            raise EngineError(f"the speech's {name} is {value:.2f}, expected {least} to {most}")
    codec = ready.get("codec", {"way": "", "why_not_faster": ""})
    return Finding(
        model=ready["model"],
        device=ready["device"],
        voice=voice,
        duration_s=round(sound.duration_s, 3),
        loudness_dbfs=round(sound.loudness_dbfs, 2),
        first_audio_s=round(answer.first_s, 3),
        request_s=round(answer.request_s, 3),
        ways=", ".join(sorted(set(ready.get("ways", {}).values()))),
        why_not_faster="; ".join(
            sorted({*ready.get("why_not_faster", {}).values(), codec["why_not_faster"]} - {""})
        ),
        codec_way=codec["way"],
        self_check=ready["self_check"]["status"],
    )
