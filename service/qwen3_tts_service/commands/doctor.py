"""``qwen3-tts doctor``: one real synthesis against a running server, judged by what comes back."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import click

from ..audio import wav
from ..client.server import Server, read
from ..errors import EngineError
from .server_options import server_options

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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@server_options
def command(server: Server, as_json: bool) -> int:
    """Ask a running server for one sentence and check what comes back.

    Exit status 0 when the server is ready and the WAV has a plausible length and loudness, else 1.
    """
    finding = examine(Client(server))
    if as_json:
        click.echo(json.dumps(asdict(finding)))
    else:
        click.echo(
            f"{server.address}: {finding.model} on {finding.device}, frames {finding.ways or 'unknown'}, "
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


class Client:
    """Times the server's answers."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Answer:
        """Send a request. Raises Unreachable when nobody answers, EngineError when the answer breaks off."""
        asked = time.monotonic()
        method, content = ("GET", None) if body is None else ("POST", json.dumps(body).encode())
        with self._server.answer(method, path, content) as response:
            first = read(response, path, _FIRST_BYTES)
            first_s = time.monotonic() - asked
            rest = read(response, path)
            return Answer(response.status, first + rest, first_s, time.monotonic() - asked)

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
    """Ask for readiness and one sentence. Raises EngineError or Unreachable saying what is wrong."""
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
