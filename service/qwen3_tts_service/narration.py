"""A text in parts, spoken by one engine as if it were one: part after part, without a gap between them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .errors import Cancelled, TTSError
from .speech.request import FRAMES_A_SECOND, CloneReference, SpeechRequest, VoicePrompt

#: Longest speech of one part, in frames: a slot holds no more with its prompt, and a talker that never ends is not
#: waited for any longer.
_LONGEST_PART = 2000
#: How long the ends of parts that meet are faded: 5 ms at 24 kHz, in samples; and how loud each of these is.
_FADE = 120
_RAMP = np.linspace(0.0, 1.0, _FADE, endpoint=False, dtype=np.float32)


class Utterance(Protocol):
    """One request inside the engine: pieces of waveform [samples] in [-1, 1], as they are made."""

    @property
    def finish(self) -> str | None:
        """``stop`` or ``length`` once all of it is made; pieces may still wait to be taken."""

    @property
    def made_frames(self) -> int:
        """Frames of 80 ms that were made so far."""

    @property
    def text_tokens(self) -> int:
        """Tokens of the text."""

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        """Blocks for each piece. Raises Cancelled, DeadlineExceeded and EngineError."""

    def cancel(self) -> None:
        """Give up; never blocks, from any thread. The iteration ends, with Cancelled or at once."""


class Engine(Protocol):
    """What turns a request into sound."""

    @property
    def sample_rate(self) -> int:
        """Samples a second of the waveform."""

    @property
    def slots(self) -> int:
        """How many requests are spoken at a time."""

    def check(self, request: SpeechRequest) -> None:
        """Raise the InvalidRequest that ``open`` would raise, without computing anything."""

    def encode_reference(self, recording: CloneReference) -> VoicePrompt:
        """Listen to a recording; blocks for about a second. Raises InvalidRequest and EngineError."""

    def open(self, request: SpeechRequest, *, deadline: float, cancelled: Callable[[], bool]) -> Utterance:
        """Begin to speak. ``deadline`` is a time of :func:`time.monotonic`; ``cancelled`` is asked often."""


class Narration:
    """Speaks the parts of a request; iterate :attr:`waveform` for all of its sound.

    The next part begins when the engine has made all of the one before, while that is still being listened to: so
    one part at a time is made, the engine does not wait for the listener, and at most two parts are held. Its
    first part begins at once, and what is wrong with it is raised here. Arguments as of :meth:`Engine.open`.
    """

    def __init__(
        self, engine: Engine, request: SpeechRequest, *, deadline: float, cancelled: Callable[[], bool]
    ) -> None:
        if request.more_parts and isinstance(request.clone, CloneReference):
            # Once, and not for every part.
            request = replace(request, clone=engine.encode_reference(request.clone))
        self._engine = engine
        self._request = request
        self._deadline = deadline
        self._is_cancelled = cancelled
        self._given_up = threading.Event()
        self._parts = 1 + len(request.more_parts)
        self._pause_frames = request.pause_s * FRAMES_A_SECOND
        self._frames_left = float(request.max_frames)
        self._cut = False
        self._utterances: list[Utterance] = []
        #: Tokens of the text that was begun so far, and the part that is heard, from 0.
        self.text_tokens = self.part = 0
        self._open(0)
        self.waveform = self._speak()

    @property
    def finish(self) -> str:
        """Once the waveform is exhausted: ``length`` where a part was cut at its longest, or did not fit."""
        return "length" if self._cut else "stop"

    def cancel(self) -> None:
        """Give up; never blocks, from any thread."""
        self._given_up.set()
        for utterance in list(self._utterances):
            utterance.cancel()

    def _speak(self) -> Iterator[npt.NDArray[np.float32]]:
        silence = np.zeros(round(self._request.pause_s * self._engine.sample_rate), np.float32)
        for number in range(self._parts):
            self.part = number
            utterance = self._utterances[-1]
            asked = number + 1 == self._parts
            failure: TTSError | None = None
            followed = number + 1 < self._parts
            for piece in _softened(utterance, begins=number > 0, ends=followed):
                if not asked and utterance.finish is not None:
                    asked = True
                    try:
                        self._follow(utterance, number + 1)
                    except TTSError as error:
                        # What was made before is heard first.
                        failure = error
                yield piece
                if self._given_up.is_set():
                    raise Cancelled("the request was given up while it was spoken")
            if failure is not None:
                raise failure
            if not asked:
                self._follow(utterance, number + 1)
            self._cut = self._cut or utterance.finish == "length"
            if utterance is self._utterances[-1]:
                return
            self._utterances.remove(utterance)
            if len(silence):
                yield silence

    def _follow(self, utterance: Utterance, number: int) -> None:
        """Begin part ``number`` after ``utterance``, unless the request's length is used up."""
        self._frames_left -= utterance.made_frames + self._pause_frames
        if self._frames_left >= 1:
            self._open(number)
        else:
            self._cut = True

    def _open(self, number: int) -> None:
        part = self._request.part(number, min(int(self._frames_left), _LONGEST_PART))
        utterance = self._engine.open(part, deadline=self._deadline, cancelled=self._gone)
        self._utterances.append(utterance)
        self.text_tokens += utterance.text_tokens
        # It may have been given up while it was opened, when nobody knew it.
        if self._given_up.is_set():
            utterance.cancel()

    def _gone(self) -> bool:
        return self._given_up.is_set() or self._is_cancelled()


def _softened(
    pieces: Iterable[npt.NDArray[np.float32]], *, begins: bool, ends: bool
) -> Iterator[npt.NDArray[np.float32]]:
    """The pieces of a part, faded in where it ``begins`` after another and out where it ``ends`` before one.

    Where one part's last sample meets the next one's first they may differ by anything, which is a click.
    """
    held = np.zeros(0, np.float32)
    for piece in pieces:
        sound = piece
        if begins and len(sound):
            begins = False
            sound = sound.copy()
            sound[:_FADE] *= _RAMP[: len(sound)]
        if ends:
            sound = np.concatenate([held, sound])
            sound, held = sound[:-_FADE], sound[-_FADE:]
        if len(sound):
            yield sound
    if len(held):
        yield held * _RAMP[::-1][-len(held) :]
