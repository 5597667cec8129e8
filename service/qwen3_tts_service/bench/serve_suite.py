"""The real server on loopback with streaming clients: first sound, whole requests, sound a second.

First sound is what a client feels: from sending the request to having read the first 1,920 samples. The first
requests after the start have a table of their own: whether they wait for what a start should have done.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.load import Checkpoint, inspect
from ..speech.request import FRAMES_A_SECOND, VoicePrompt
from ..voices.files import VoiceFiles
from ..voices.saved import SavedVoice, Words, new_id
from . import observation, provenance
from .plan import SENTENCE, Plan
from .report import Cell, Column, Report, Table
from .requests import spoken_by
from .server import Heard, Server, serving
from .statistics import spread

#: What else keeps the process' Python busy, while clients listen.
_LONG_TEXT_CHARACTERS = 50_000
_SCRAPE_S = 0.1
_PATIENCE_S = 0.5
#: The requests after the start, one after the other, and their frames: a start's delay is no part of a long one.
_AFTER_START = 10
_AFTER_START_FRAMES = 8
#: The saved voice with which a base checkpoint speaks: nothing is encoded while others speak.
_VOICE = "bench"


@dataclass(frozen=True)
class Listening:
    """What so many clients heard, and the frames that were made meanwhile."""

    heard: list[Heard]
    seconds: float
    gaps: observation.FrameGaps | None


def run(plan: Plan) -> Report:
    """Measure the service on ``plan.checkpoint``.

    Raises CheckpointError, and EngineError when the server does not come up or answers with anything but sound.
    """
    checkpoint = inspect(plan.checkpoint)
    body = request_body(checkpoint)
    rows: list[dict[str, Cell]] = []
    slots = min(max(plan.clients), max(plan.batches))
    started = time.monotonic()
    plan.say("starting the server")
    with speaking_server(plan, "frames", slots=slots) as server:
        ready_s = time.monotonic() - started
        plan.say("the first requests")
        after_start = _after_start(plan, ready_s, server, body)
        listen(server, body, clients=1, requests=2)
        for clients in plan.clients:
            plan.say(f"{clients} clients")
            rows.append(_row("ours", clients, listen(server, body, clients=clients, requests=plan.repeats)))
    if plan.upstream:
        plan.say("starting the server with upstream's engine")
        with speaking_server(plan, "reference", slots=1) as server:
            listen(server, body, clients=1, requests=1)
            rows.append(_row("upstream", 1, listen(server, body, clients=1, requests=plan.repeats)))
    for row in rows:
        _compare(row, rows)
    facts = {
        "checkpoint": provenance.of_checkpoint(checkpoint),
        "device": plan.device,
        "codec_device": plan.codec_device,
        "codec_dtype": plan.codec_dtype,
        "slots": slots,
        "ready_after_s": ready_s,
    }
    return Report("serve", provenance.collect(), facts, [_table(plan, rows), after_start])


def request_body(checkpoint: Checkpoint, text: str = SENTENCE) -> dict[str, Any]:
    """The sentence as the API of a :func:`speaking_server` takes it, as raw samples."""
    request = spoken_by(checkpoint, text)
    # One part, whatever its length: frames of one request are what is measured.
    body: dict[str, Any] = {"input": request.text, "response_format": "pcm", "seed": 1, "split": "none"}
    if voice := request.voice if request.clone is None else _VOICE:
        body["voice"] = voice
    if request.instructions:
        body["instructions"] = request.instructions
    return body


@contextmanager
def speaking_server(plan: Plan, engine: str, *, slots: int, **more: object) -> Iterator[Server]:
    """A server of ``plan``'s checkpoint, every request to which is as long as ``plan.frames``.

    ``more`` are further settings. Raises CheckpointError and EngineError as :func:`.server.serving`.
    """
    checkpoint = inspect(plan.checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        voices = Path(folder) / "voices"
        prompt = spoken_by(checkpoint, SENTENCE).clone
        if isinstance(prompt, VoicePrompt):
            _save(prompt, voices, checkpoint.model_size)
        settings = _settings(plan, engine, slots=slots) | {"voices_directory": voices} | more
        with serving(Path(folder), settings) as server:
            yield server


def _save(prompt: VoicePrompt, voices: Path, model_size: str) -> None:
    """Keep a voice of nobody's where a server finds it when it starts, as if it had been saved there before."""
    words = Words(
        id=new_id(),
        name=_VOICE,
        language=None,
        kind="designed",
        ref_text=None,
        consent=None,
        created=int(time.time()),
        model_size=model_size,
    )
    VoiceFiles(voices).add([SavedVoice(words, prompt)])


def _settings(plan: Plan, engine: str, *, slots: int) -> dict[str, object]:
    return {
        "model": plan.checkpoint.resolve(),
        "port": 0,
        "engine": engine,
        "device": plan.device,
        "dtype": plan.dtype,
        "codec_device": plan.codec_device,
        "codec_dtype": plan.codec_dtype,
        "cpu_threads": plan.cpu_threads,
        "slots": slots,
        # Also where they are too many to listen to: what is measured is how fast they are.
        "max_streams": slots,
        "positions": plan.slot_positions,
        "queue_size": 2 * max(plan.clients),
        "max_input_chars": _LONG_TEXT_CHARACTERS,
        "max_audio_seconds": plan.frames / FRAMES_A_SECOND,
    }


def listen(server: Server, body: dict[str, Any], *, clients: int, requests: int) -> Listening:
    """``clients`` clients at once, each with ``requests`` requests one after the other."""
    together = threading.Barrier(clients)

    def one(number: int) -> list[Heard]:
        together.wait()
        return [server.listen(body | {"seed": 1000 * number + turn}) for turn in range(requests)]

    started = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        heard = [item for items in pool.map(one, range(clients)) for item in items]
    ended = time.monotonic()
    return Listening(heard, ended - started, observation.gaps(server.frame_times, since=started, until=ended))


@contextmanager
def disturbed(server: Server, body: dict[str, Any]) -> Iterator[None]:
    """Meanwhile somebody sends texts of 50,000 characters, and somebody reads ``/metrics``."""
    over = threading.Event()

    def send() -> None:
        sentence = body["input"] + " "
        text = (sentence * (_LONG_TEXT_CHARACTERS // len(sentence) + 1))[:_LONG_TEXT_CHARACTERS]
        while not over.is_set():
            # Cutting it into parts and reading them is what disturbs; all slots are taken by then.
            server.interrupt(body | {"input": text, "split": "paragraph"}, _PATIENCE_S)

    def scrape() -> None:
        while not over.wait(_SCRAPE_S):
            server.get("/metrics")

    threads = [threading.Thread(target=send), threading.Thread(target=scrape)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _after_start(plan: Plan, ready_s: float, server: Server, body: dict[str, Any]) -> Table:
    """The first requests that ``server`` gets: nobody has asked it for anything yet."""
    frames = min(_AFTER_START_FRAMES, plan.frames)
    seconds = frames / FRAMES_A_SECOND
    heard = listen(server, body | {"max_seconds": seconds}, clients=1, requests=_AFTER_START).heard
    tenth = heard[-1]
    rows: list[dict[str, Cell]] = []
    for first, last in ((1, 1), (2, 2), (3, _AFTER_START - 1), (_AFTER_START, _AFTER_START)):
        sound = spread([one.first_s for one in heard[first - 1 : last]])
        whole = spread([one.whole_s for one in heard[first - 1 : last]])
        rows.append(
            {
                "request": str(first) if first == last else f"{first} to {last}",
                "first_ms": sound.scaled(1e3),
                "first_ratio": sound.median / tenth.first_s,
                "whole_s": whole,
                "whole_ratio": whole.median / tenth.whole_s,
            }
        )
    return Table(
        name="after_start",
        title=f"After a start, ready in {ready_s:.1f} s: requests of {frames} frames ({seconds:.2f} s of sound), "
        f"one after the other, {plan.codec}",
        columns=[
            Column("request", "request"),
            Column("first_ms", "first sound", "ms", 1),
            Column("first_ratio", "times the tenth's"),
            Column("whole_s", "whole request", "s", 3),
            Column("whole_ratio", "times the tenth's"),
        ],
        rows=rows,
        notes=["No client asked before the first. A server speaks a sentence by itself before it is ready."],
    )


def _row(who: str, clients: int, listening: Listening) -> dict[str, Cell]:
    whole = spread([heard.whole_s for heard in listening.heard])
    sound_s = sum(heard.frames for heard in listening.heard) / FRAMES_A_SECOND
    ratios = [heard.whole_s * FRAMES_A_SECOND / heard.frames for heard in listening.heard]
    return {
        "who": who,
        "clients": clients,
        "first_ms": spread([heard.first_s for heard in listening.heard]).scaled(1e3),
        "whole_s": whole,
        "compute_audio": spread(ratios),
        "audio_s_a_second": sound_s / listening.seconds,
        "gap_ms": spread(listening.gaps.seconds).scaled(1e3) if listening.gaps else None,
    }


def _compare(row: dict[str, Cell], rows: list[dict[str, Cell]]) -> None:
    """How much sooner than upstream the first sound is, where upstream ran."""
    theirs = next((other for other in rows if other["who"] == "upstream"), None)
    if theirs is not None:
        first, own = theirs["first_ms"], row["first_ms"]
        assert not isinstance(first, (str, int, float, type(None)))
        assert not isinstance(own, (str, int, float, type(None)))
        row["sooner"] = first.median / own.median


def _table(plan: Plan, rows: list[dict[str, Cell]]) -> Table:
    return Table(
        name="clients",
        title=f"HTTP clients, each request {plan.frames} frames ({plan.frames / FRAMES_A_SECOND:.2f} s of sound), "
        f"{plan.codec}",
        columns=[
            Column("who", "engine"),
            Column("clients", "clients"),
            Column("first_ms", "first sound", "ms", 1),
            Column("sooner", "times sooner"),
            Column("whole_s", "whole request", "s", 3),
            Column("compute_audio", "request/audio", digits=3),
            Column("audio_s_a_second", "sound a second", "s", 1),
            Column("gap_ms", "between frames", "ms"),
        ],
        rows=rows,
        notes=["First sound: request sent to 1,920 samples read. Clients are threads of one other process."],
        plotted=["clients", "first_ms"],
    )
