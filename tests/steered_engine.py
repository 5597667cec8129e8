"""The engine's process with an engine that does what a request's text says; run as a program by tests."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qwen3_tts_service.engine_process.child import main
from qwen3_tts_service.engine_process.loading import EngineLoader
from qwen3_tts_service.errors import DeviceFault, TTSError
from qwen3_tts_service.loaded_engine import Loaded
from qwen3_tts_service.speech.listening import Listener, Speaker
from qwen3_tts_service.speech.request import SpeechRequest
from stand_in_engine import StandInEngine

#: A text whose sound is made at a steady pace, whoever else speaks.
PACED = "pace"


class Steered(StandInEngine):
    """Speaks like the stand-in, but for some texts."""

    def __init__(self, on_fault: Callable[[DeviceFault], None]) -> None:
        super().__init__(int(os.environ.get("STEERED_SLOTS", "1")))
        self._on_fault = on_fault

    def pieces(self, request: SpeechRequest) -> Iterable[npt.NDArray[np.float32]]:
        if request.text == "long":
            return self._slowly(pieces=40, each_s=0.05)
        if request.text == "as it is heard":
            return self._slowly(pieces=200, each_s=0.1)
        if request.text == PACED:
            return self._slowly(pieces=20, each_s=0.02)
        while request.text == "hang":
            time.sleep(1)
        if request.text == "fault":
            raise DeviceFault("the codec failed: HIP error: out of luck")
        if request.text == "stuck":
            # The watchdog tells of a hung call while it goes on.
            threading.Timer(0.1, self._on_fault, [DeviceFault("a frame took longer than 10 s")]).start()
            time.sleep(1e6)
        if request.text == "die":
            threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGKILL]).start()
            time.sleep(1e6)
        if request.text == "freeze":
            # As a driver that hangs in a call which keeps the interpreter.
            threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGSTOP]).start()
            time.sleep(1e6)
        if request.text == "wait":
            # One piece, and then nothing until it is given up.
            self.hold_at = 1
            self.go.clear()
            return [self.waveform, self.waveform]
        self.hold_at = 0
        self.go.set()
        return super().pieces(request)

    def _slowly(self, pieces: int, each_s: float) -> Iterator[npt.NDArray[np.float32]]:
        """So many tenths of a second of sound, each after ``each_s`` seconds."""
        for _ in range(pieces):
            time.sleep(each_s)
            yield self.waveform

    def start(self, request: SpeechRequest, listener: Listener, *, deadline: float) -> Speaker:
        """As the real ones."""
        utterance = self.open(request, deadline=deadline, cancelled=listener.gone)

        def speak() -> None:
            try:
                for piece in utterance:
                    listener.hear(piece)
            except TTSError as error:
                listener.end(None, error)
            else:
                listener.end("stop", None)

        threading.Thread(target=speak, daemon=True).start()
        return utterance


def load(_loader: EngineLoader, _path: Path, on_fault: Callable[[DeviceFault], None]) -> Loaded:
    """In place of the real one."""
    return Loaded(Steered(on_fault), codec_way="compiled", codec_reason="no graphs", prompt_way="captured")


if __name__ == "__main__":
    EngineLoader.load = load  # type: ignore[method-assign]
    main()
