"""The program of the engine's process: ``python -m qwen3_tts_service.engine_process DESCRIPTOR``.

It serves calls from the socket until that closes, which is how it hears of its parent's end. Signals that are
meant for the service as a whole reach it too and are the parent's to answer: it finishes what is being spoken.
"""

from __future__ import annotations

import gc
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from .. import journal
from ..errors import DeviceFault, EngineError, TTSError
from ..loaded_engine import LoadedEngine, described
from ..speech.listening import Finish, Listener, Speaker, Waveform
from ..speech.request import CloneReference, SpeechRequest, VoicePrompt
from .kept_voices import KeptVoices
from .loading import EngineLoader
from .messages import (
    Answer,
    Begin,
    Built,
    Call,
    Cancel,
    CodecCounts,
    Counts,
    Ended,
    Fault,
    FrameCounts,
    Heard,
)
from .sound import SoundMemory

logger = logging.getLogger(__name__)

#: Calls that are worked on at a time. A recording that is listened to takes one for a second; it must not keep others
#: from being spoken.
_WORKERS = 8
#: Calls that take no time and must not wait for those that do.
_AT_ONCE = ("ping", "stats", "forget")
#: How long a thread that computes in Python keeps the interpreter while another one waits (seconds). Python's own
#: 5 ms are longer than a frame. Modelled with a device of 3 ms a frame, 32 slots and one busy thread on two cores:
#: the gaps' 95th percentile is 15 ms with 5 ms, 5.5 to 8.4 ms with 0.5 ms, and grows again below.
_SWITCH_S = 0.0005


class Engine(LoadedEngine, Protocol):
    """What :class:`.loading.EngineLoader` builds: an engine that speaks to a listener."""

    def start(self, request: SpeechRequest, listener: Listener, *, deadline: float) -> Speaker:
        """Begin to speak. Raises InvalidRequest, QueueFull, Draining and EngineError."""


class Outbox:
    """Messages to the parent, sent by a thread of its own: whoever has news never waits for the socket."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: queue.SimpleQueue[object] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="outbox", daemon=True).start()

    def put(self, message: object) -> None:
        """Send it, after what was put before."""
        self._waiting.put(message)

    def _run(self) -> None:
        while True:
            messages = [self._waiting.get()]
            while not self._waiting.empty():
                messages.append(self._waiting.get())
            try:
                self._connection.send(messages)
            except OSError:
                return  # the parent is gone, and the main thread hears of it


@dataclass
class Lane:
    """The listener of one utterance: sound into the shared memory, and word of it to the parent."""

    number: int
    lane: int
    memory: SoundMemory
    outbox: Outbox
    over: Callable[[int], None]
    written: int = 0

    @property
    def taken(self) -> int:
        """As :class:`..speech.listening.Listener`."""
        return int(self.memory.taken[self.lane])

    def gone(self) -> bool:
        """The parent says so by a message."""
        return False

    def hear(self, chunk: Waveform) -> None:
        """As :class:`..speech.listening.Listener`."""
        self.memory.write(self.lane, self.written, chunk)
        self.written += len(chunk)
        self.outbox.put(Heard(self.number, self.written))

    def end(self, finish: Finish | None, error: TTSError | None) -> None:
        """As :class:`..speech.listening.Listener`."""
        self.over(self.number)
        self.outbox.put(Ended(self.number, finish, error))


class EngineHost:
    """The loaded models, and what the parent may call. Every method may be called from any thread."""

    def __init__(self, begin: Begin, outbox: Outbox) -> None:
        self._loader = EngineLoader(begin.settings)
        self._memory = SoundMemory(begin.sound, begin.lanes)
        self._outbox = outbox
        self._voices = KeptVoices(forgotten_s=begin.settings.request_timeout_s)
        self._engines: dict[int, Engine] = {}
        # None: it is being started.
        self._speakers: dict[int, Speaker | None] = {}
        self._lock = threading.Lock()

    def load(self, model: int, path: Path) -> Built:
        """Build the engine of a checkpoint under that number. Raises what its loader raises."""
        loaded = self._loader.load(path, self._lose)
        engine: Any = loaded.engine
        self._engines[model] = engine
        # What is loaded stays: the collector need not look through it again and again while frames wait.
        gc.collect()
        gc.freeze()
        return Built(
            model=model,
            offers=described(engine),
            slots=engine.slots,
            sample_rate=engine.sample_rate,
            ways=dict(engine.ways()),
            reasons=dict(engine.reasons()),
            self_check=loaded.self_check,
            codec_way=loaded.codec_way,
            codec_reason=loaded.codec_reason,
            prompt_way=loaded.prompt_way,
        )

    def close(self, model: int) -> None:
        """Let an engine and its memory go. Nothing is being spoken."""
        engine = self._engines.pop(model)
        engine.close()
        # With them goes what the codec heard of them.
        self._voices.clear()
        del engine
        gc.unfreeze()
        gc.collect()
        gc.freeze()

    def check(self, model: int, request: SpeechRequest) -> None:
        """Raise the InvalidRequest that :meth:`start` would raise."""
        self._engines[model].check(request)

    def encode_reference(self, model: int, recording: CloneReference) -> VoicePrompt:
        """Listen to a recording. Raises InvalidRequest and EngineError."""
        return self._engines[model].encode_reference(recording)

    def forget(self, voice: VoicePrompt) -> None:
        """Keep nothing of that voice."""
        self._voices.forget(voice)

    def start(self, model: int, request: SpeechRequest, deadline: float, number: int, lane: int) -> int:
        """Begin to speak utterance ``number`` into ``lane``; how many tokens its text has."""
        if isinstance(request.clone, VoicePrompt):
            request = replace(request, clone=self._voices.same(request.clone))
        listener = Lane(number, lane, self._memory, self._outbox, self._forget)
        with self._lock:
            self._speakers[number] = None
        try:
            speaker = self._engines[model].start(request, listener, deadline=deadline)
        except BaseException:
            self._forget(number)
            raise
        with self._lock:
            # It may have ended meanwhile.
            if number in self._speakers:
                self._speakers[number] = speaker
        return speaker.text_tokens

    def stats(self, model: int) -> Counts | None:
        """As :meth:`..loaded_engine.LoadedEngine.stats`."""
        stats = self._engines[model].stats()
        if stats is None:
            return None
        frames, codec = stats.frames, stats.codec
        return Counts(
            FrameCounts(frames.frames, frames.paused, frames.gap_p50_s, frames.gap_p95_s),
            CodecCounts(codec.frames, codec.backlog),
            stats.memory_bytes,
        )

    def ping(self) -> None:
        """The process is alive and its interpreter free."""

    def cancel(self, number: int) -> None:
        """Nobody listens to that utterance any more."""
        with self._lock:
            speaker = self._speakers.get(number)
        if speaker is not None:
            speaker.cancel()

    def _forget(self, number: int) -> None:
        with self._lock:
            self._speakers.pop(number, None)

    def _lose(self, error: DeviceFault) -> None:
        self._outbox.put(Fault(error))


def answer(host: EngineHost, call: Call) -> Answer:
    """Do what ``call`` says."""
    try:
        return Answer(call.number, getattr(host, call.name)(*call.arguments))
    except TTSError as error:
        return Answer(call.number, error=error)
    except Exception as error:
        # Whatever a library raises: the caller must hear of it, and its class may not be known there.
        logger.exception("%s failed", call.name)
        return Answer(call.number, error=EngineError(f"{type(error).__name__}: {error}"))


def serve(connection: Connection) -> None:
    """Answer until the parent closes its end."""
    begin: Begin = connection.recv()
    journal.configure(begin.settings.log_level)
    outbox = Outbox(connection)
    host = EngineHost(begin, outbox)
    workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="call")

    def work(call: Call) -> None:
        outbox.put(answer(host, call))

    while True:
        message: Call | Cancel = connection.recv()
        if isinstance(message, Cancel):
            host.cancel(message.utterance)
        elif message.name in _AT_ONCE:
            work(message)
        else:
            workers.submit(work, message)


def main() -> None:
    """Run until the parent is gone."""
    # All of them are for the parent, and reach the whole group from a terminal or `systemctl kill`.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    sys.setswitchinterval(_SWITCH_S)
    status = 0
    try:
        descriptor = int(sys.argv[1])
        # Compilers that are started here must not keep it open.
        os.set_inheritable(descriptor, False)
        serve(Connection(descriptor))
    except (EOFError, ConnectionResetError):
        pass
    except BaseException:
        logger.exception("the engine process failed")
        status = 1
    finally:
        # A thread may still be inside torch, and an interpreter that is torn down under it crashes.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)
