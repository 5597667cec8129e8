"""The server's side of the engine's process: starts it, asks it, and notices when it is no more.

Nothing here imports torch: the server answers in the second in which it is started, and a fault inside a driver
ends the engine's process and not this one, which can still say so.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ..config import Settings
from ..errors import Cancelled, DeadlineExceeded, DeviceFault, Draining, TTSError
from ..loaded_engine import Loaded
from ..speech.listening import Listener, Reader
from ..speech.request import CloneReference, SpeechRequest, VoicePrompt
from .loading import most_slots
from .messages import Answer, Begin, Built, Call, Cancel, Counts, Ended, Fault, Heard
from .sound import SoundMemory

logger = logging.getLogger(__name__)

#: What the interpreter is told to run; the descriptor's number follows.
PROGRAM = ("-m", "qwen3_tts_service.engine_process")
#: How often the child is asked whether it is alive, and how long beyond a frame's deadline its answer may take: the
#: watchdog inside the child comes first and can say more (seconds).
_PING_S = 2.0
_SILENT_S = 10.0
#: An utterance that was given up holds its lane until the child has heard of it.
_LANES_A_SLOT = 2
#: Time for the child to leave by itself, and then for the system to end it (seconds).
_LEAVE_S = 5.0


class EngineProcess:
    """The process in which the models of one server are loaded. Every method may be called from any thread.

    It is started by the first :meth:`load` and serves until :meth:`stop`. When it ends by itself, hangs, or
    reports that its device is lost, every caller and reader gets a DeviceFault, and so does ``on_fault`` of
    :meth:`load`, once: nothing can be spoken any more, and the server should end too.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._calls: dict[int, Future[Any]] = {}
        self._utterances: dict[int, _Heard] = {}
        self._loads = 0
        self._error: str | None = None
        self._stopped = threading.Event()
        self._on_fault: Callable[[DeviceFault], None] = lambda error: None
        lanes = _LANES_A_SLOT * most_slots(settings) * len(settings.models)
        self._memory = SoundMemory.create(lanes)
        self._free = list(range(lanes))
        self._lane_freed = threading.Condition(self._lock)

    def load(self, path: Path, on_fault: Callable[[DeviceFault], None]) -> Loaded:
        """Load the checkpoint at ``path``, in seconds to minutes. Raises as :class:`.loading.EngineLoader`."""
        with self._lock:
            self._on_fault = on_fault
            self._loads += 1
            if self._process is None:
                self._start()
        try:
            built: Built = self.call("load", next(self._numbers), path)
        finally:
            with self._lock:
                self._loads -= 1
        return Loaded(
            RemoteEngine(self, built),
            built.self_check,
            codec_way=built.codec_way,
            codec_reason=built.codec_reason,
            prompt_way=built.prompt_way,
        )

    def stop(self) -> None:
        """End the process, whatever it does. Whoever still waits for it gets Draining."""
        self._stopped.set()
        with self._lock:
            process, connection = self._process, self._connection
        if process is None or connection is None:
            return
        if self._error is not None:
            process.kill()  # it may hang
        # It leaves by itself when its parent has nothing more to say. Closing would not be heard: a thread reads here.
        with socket.socket(fileno=os.dup(connection.fileno())) as hanging_up, contextlib.suppress(OSError):
            hanging_up.shutdown(socket.SHUT_RDWR)
        try:
            process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_LEAVE_S)

    def call(self, name: str, *arguments: Any) -> Any:
        """Let the child do something and wait for it.

        Raises what it raises, DeviceFault when it is gone, and Draining after :meth:`stop`.
        """
        return self._ask(name, arguments).result()

    def start(self, model: int, request: SpeechRequest, listener: Listener, deadline: float) -> Remote:
        """Let the child speak ``request`` to ``listener``. Raises as :meth:`call`, and DeadlineExceeded."""
        number = next(self._numbers)
        with self._lane_freed:
            while not self._free and self._error is None:
                if not self._lane_freed.wait(deadline - time.monotonic()) and time.monotonic() >= deadline:
                    raise DeadlineExceeded("no place for its sound came free in time", retry_after_s=1.0)
            if self._error is not None:
                raise self._failure()
            lane = self._free.pop()
            self._memory.taken[lane] = 0
            self._utterances[number] = _Heard(listener, lane)
        try:
            text_tokens: int = self.call("start", model, request, deadline, number, lane)
        except BaseException:
            self._forget(number)
            raise
        return Remote(self, number, text_tokens)

    def cancel(self, utterance: int) -> None:
        """Nobody listens to it any more. Never raises: a child that is gone has cancelled everything."""
        self._send(Cancel(utterance))

    def forget(self, voice: VoicePrompt) -> None:
        """Keep nothing of that voice, whichever model speaks with it.

        Never raises: a child that is gone keeps nothing.
        """
        with self._lock:
            started = self._process is not None
        if started:
            with contextlib.suppress(TTSError):
                self.call("forget", voice)

    def took(self, utterance: int, frames: int) -> None:
        """So many frames of it were read: the child, which may have paused it, sees that."""
        with self._lock:
            # Its lane may already be another's.
            if (heard := self._utterances.get(utterance)) is not None:
                self._memory.taken[heard.lane] = frames

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *PROGRAM, str(theirs.fileno())],
                pass_fds=(theirs.fileno(), self._memory.descriptor),
            )
        self._connection = Connection(ours.detach())
        self._send(Begin(self._settings, self._memory.descriptor, self._memory.lanes))
        threading.Thread(target=self._listen, name="engine-messages", daemon=True).start()
        threading.Thread(target=self._watch, name="engine-watch", daemon=True).start()

    def _ask(self, name: str, arguments: tuple[Any, ...]) -> Future[Any]:
        number, future = next(self._numbers), Future[Any]()
        with self._lock:
            if self._error is not None:
                raise self._failure()
            self._calls[number] = future
        self._send(Call(number, name, arguments))
        return future

    def _send(self, message: object) -> None:
        connection = self._connection
        assert connection is not None
        try:
            with self._sending:
                connection.send(message)
        except OSError:
            # It is gone; the thread that listens to it tells everybody why.
            logger.debug("the engine process does not take %r", type(message).__name__)

    def _listen(self) -> None:
        connection = self._connection
        assert connection is not None
        try:
            while True:
                for message in connection.recv():
                    self._hear(message)
        except (EOFError, OSError):
            self._lose(f"the engine process {self._end_of_it()}")

    def _hear(self, message: object) -> None:
        if isinstance(message, Heard):
            with self._lock:
                heard = self._utterances.get(message.utterance)
            if heard is not None:
                chunk = self._memory.read(heard.lane, heard.samples, message.samples)
                heard.samples = message.samples
                heard.listener.hear(chunk)
        elif isinstance(message, Ended):
            if (heard := self._forget(message.utterance)) is not None:
                heard.listener.end(message.finish, message.error)
        elif isinstance(message, Answer):
            with self._lock:
                future = self._calls.pop(message.number)
            if message.error is not None:
                future.set_exception(message.error)
            else:
                future.set_result(message.value)
        elif isinstance(message, Fault):
            self._lose(message.error.message)

    def _forget(self, utterance: int) -> _Heard | None:
        with self._lane_freed:
            heard = self._utterances.pop(utterance, None)
            if heard is not None:
                self._free.append(heard.lane)
                self._lane_freed.notify()
            return heard

    def _watch(self) -> None:
        """Ask the child again and again: a call into a driver that hangs may keep its interpreter to itself."""
        limit_s = self._settings.frame_deadline_s + _SILENT_S
        while not self._stopped.wait(_PING_S):
            try:
                answer = self._ask("ping", ())
            except TTSError:
                return
            while True:
                try:
                    answer.result(limit_s)
                    break
                except NotInTime:
                    with self._lock:
                        loading = self._loads > 0
                    # Loading holds the interpreter for as long as a slow disk likes.
                    if not loading:
                        self._end_hung(limit_s)
                        return
                except TTSError:
                    return

    def _end_hung(self, limit_s: float) -> None:
        self._lose(f"the engine process has not answered for {limit_s:g} s: it hangs")
        process = self._process
        assert process is not None
        process.kill()

    def _end_of_it(self) -> str:
        process = self._process
        assert process is not None
        try:
            status = process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        if status < 0:
            return f"was ended by {signal.Signals(-status).name}"
        return f"ended with status {status}"

    def _lose(self, error: str) -> None:
        """Tell everybody, once. Each gets an error of its own: raising one changes it."""
        with self._lane_freed:
            if self._error is not None:
                return
            self._error = error
            calls, self._calls = self._calls, {}
            utterances, self._utterances = self._utterances, {}
            self._lane_freed.notify_all()
        for heard in utterances.values():
            heard.listener.end(None, self._failure())
        for future in calls.values():
            future.set_exception(self._failure())
        if not self._stopped.is_set():
            self._on_fault(DeviceFault(error))

    def _failure(self) -> TTSError:
        """What is raised to whoever asks a process that is gone."""
        if self._stopped.is_set():
            return Draining("the service is going down", retry_after_s=5.0)
        assert self._error is not None
        return DeviceFault(self._error)


@dataclass
class _Heard:
    """An utterance under way: its listener, its lane, and how much of it was handed on."""

    listener: Listener
    lane: int
    samples: int = 0


@dataclass(frozen=True)
class Remote:
    """An utterance that the child speaks."""

    process: EngineProcess
    number: int
    text_tokens: int

    def cancel(self) -> None:
        """As :class:`..speech.listening.Speaker`."""
        self.process.cancel(self.number)


class RemoteUtterance(Reader):
    """Iterate for the sound of the other process."""

    _speaker: Remote

    def _note_taken(self) -> None:
        self._speaker.process.took(self._speaker.number, self.taken)


class RemoteEngine:
    """A model in the engine's process, as :class:`..loaded_engine.LoadedEngine`."""

    def __init__(self, process: EngineProcess, built: Built) -> None:
        self._process = process
        self._built = built
        offers = built.offers
        self.model_type, self.model_size = offers.model_type, offers.model_size
        self.synthetic = offers.synthetic
        self.speakers, self.languages = offers.speakers, offers.languages
        self.device, self.dtype = offers.device, offers.dtype
        self.slots, self.sample_rate = built.slots, built.sample_rate

    def check(self, request: SpeechRequest) -> None:
        """Raise the InvalidRequest that :meth:`open` would raise, without computing anything."""
        self._process.call("check", self._built.model, request)

    def encode_reference(self, recording: CloneReference) -> VoicePrompt:
        """Listen to a recording. Raises InvalidValue, NotSupportedByModel, EngineError and Draining."""
        voice: VoicePrompt = self._process.call("encode_reference", self._built.model, recording)
        return voice

    def open(
        self, request: SpeechRequest, *, deadline: float, cancelled: Callable[[], bool]
    ) -> RemoteUtterance:
        """Begin to speak. Raises InvalidRequest, QueueFull, Draining, DeadlineExceeded, Cancelled, DeviceFault."""
        if cancelled():
            raise Cancelled("the client went away before its request was spoken")
        return RemoteUtterance(
            lambda listener: self._process.start(self._built.model, request, listener, deadline),
            deadline=deadline,
            cancelled=cancelled,
        )

    def ways(self) -> Mapping[int, str]:
        """As :meth:`..loaded_engine.LoadedEngine.ways`; they are settled when the engine is built."""
        return self._built.ways

    def reasons(self) -> Mapping[int, str]:
        """As :meth:`..loaded_engine.LoadedEngine.reasons`."""
        return self._built.reasons

    def stats(self) -> Counts | None:
        """Counts and times; None where the engine is no frame loop, and when the process is gone."""
        try:
            counts: Counts | None = self._process.call("stats", self._built.model)
        except TTSError:
            return None
        return counts

    def close(self) -> None:
        """Let the engine's memory go. Nothing is being spoken."""
        self._process.call("close", self._built.model)
