"""One request for speech, checked and in the checkpoint's own words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import InvalidValue

#: One frame of codes is 80 ms of sound: 1920 samples at 24 kHz.
FRAMES_A_SECOND = 12.5
SAMPLES_A_FRAME = 1920

#: How the text reaches the talker: all of it before the first frame, or one token with every frame.
TextFeeding = Literal["whole", "streaming"]

#: Seeds are below this.
_SEEDS = 1 << 63

_TEMPERATURE_LIMIT = 10.0
_MOST_CANDIDATES = 1_000_000
_PENALTY_LIMITS = (0.1, 10.0)


#: The numbers of :class:`Sampling`, named as in a checkpoint's ``generation_config.json``.
DRAWING = (
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "subtalker_temperature",
    "subtalker_top_k",
    "subtalker_top_p",
)


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn from their probabilities.

    Temperatures scale the logits (lower is steadier), ``top_k`` keeps the likeliest candidates (0 keeps all),
    ``top_p`` the likeliest that together have that probability (1 keeps all), ``repetition_penalty`` makes
    codes of the first codebook that were spoken before less likely (1 does nothing). The ``subtalker`` values
    are for the code predictor, which makes the other 15 codebooks of a frame. ``greedy`` takes the likeliest
    code each time; the penalty still holds, the rest has no effect.

    Raises InvalidValue for a value out of range.
    """

    temperature: float = 0.9
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.05
    subtalker_temperature: float = 0.9
    subtalker_top_k: int = 50
    subtalker_top_p: float = 1.0
    greedy: bool = False

    def __post_init__(self) -> None:
        for name in ("temperature", "subtalker_temperature"):
            self._must(
                name,
                0.0 < getattr(self, name) <= _TEMPERATURE_LIMIT,
                f"above 0 and at most {_TEMPERATURE_LIMIT:g}; for the likeliest code each time, ask for greedy",
            )
        for name in ("top_k", "subtalker_top_k"):
            self._must(
                name,
                0 <= getattr(self, name) <= _MOST_CANDIDATES,
                f"from 0, which keeps all candidates, to {_MOST_CANDIDATES}",
            )
        for name in ("top_p", "subtalker_top_p"):
            self._must(name, 0.0 < getattr(self, name) <= 1.0, "above 0 and at most 1")
        low, high = _PENALTY_LIMITS
        self._must(
            "repetition_penalty",
            low <= self.repetition_penalty <= high,
            f"from {low:g} to {high:g}, 1 is none",
        )

    def _must(self, name: str, holds: bool, rule: str) -> None:
        # Comparisons with NaN are false, so it is refused too.
        if not holds:
            raise InvalidValue(f"`{name}` is {getattr(self, name)}: it must be {rule}", param=name)


@dataclass(frozen=True, eq=False)
class CloneReference:
    """A recording of the voice that shall speak.

    ``waveform`` is mono float32 [samples] in [-1, 1] with ``sample_rate`` in Hz. ``text`` is what is said in
    the recording, word for word: the model then continues the recording (in context), which is closest to the
    voice; a wrong text makes it babble. None takes only the sound of the voice (x-vector).
    """

    waveform: npt.NDArray[np.float32]
    sample_rate: int
    text: str | None = None


@dataclass(frozen=True, eq=False)
class VoicePrompt:
    """What the model keeps of a :class:`CloneReference`: made once, spoken with many times.

    ``speaker_embedding`` is float32 [hidden of the talker]. ``codes`` int64 [frames, 16] and ``text`` are the
    recording and its words for cloning in context, both None when only the sound of the voice is taken. It
    fits checkpoints of the size that made it.
    """

    speaker_embedding: npt.NDArray[np.float32]
    codes: npt.NDArray[np.int64] | None = None
    text: str | None = None


@dataclass(frozen=True)
class SpeechRequest:
    """What the engine needs to know to speak one text.

    ``voice`` and ``language`` are names of the loaded checkpoint in its own spelling; None leaves the choice
    to the checkpoint (``language``) or says that it has no fixed speakers (``voice``). ``clone`` is the voice
    for a base checkpoint: a recording, or what was made of it before. The same ``seed`` gives the same speech
    on the same machine; None draws a fresh one (greedy decoding makes real checkpoints loop). ``max_frames``
    caps the length in frames of 80 ms. ``sampling`` None is the checkpoint's own, ``drawing`` is what it shall
    be besides, value by value. ``text_feeding`` None is upstream's choice: ``whole``, but ``streaming`` for a
    cloned voice.

    ``more_parts`` is the rest of a text that is spoken in parts, with ``pause_s`` seconds of silence before each.
    An engine speaks ``text`` alone: it is given one :meth:`part` after the other.
    """

    text: str
    voice: str | None = None
    language: str | None = None
    instructions: str | None = None
    seed: int | None = None
    max_frames: int = 2048
    sampling: Sampling | None = None
    clone: CloneReference | VoicePrompt | None = None
    text_feeding: TextFeeding | None = None
    drawing: tuple[tuple[str, Any], ...] = ()
    more_parts: tuple[str, ...] = ()
    pause_s: float = 0.0

    @property
    def characters(self) -> int:
        """Length of the whole text."""
        return len(self.text) + sum(map(len, self.more_parts))

    def part(self, number: int, max_frames: int) -> SpeechRequest:
        """What an engine is asked for part ``number`` (from 0), which may have so many frames.

        Each part has a seed of its own, since the same noise twice is the same tune twice; the first has the
        request's, so that a text of one part is spoken as it always was.
        """
        return replace(
            self,
            text=(self.text, *self.more_parts)[number],
            more_parts=(),
            seed=None if self.seed is None else (self.seed + number) % _SEEDS,
            max_frames=max_frames,
        )

    def drawn(self, own: Sampling) -> SpeechRequest:
        """The request with its sampling settled: ``own``, the checkpoint's, with what ``drawing`` changes."""
        if not self.drawing:
            return self
        return replace(self, sampling=replace(self.sampling or own, **dict(self.drawing)), drawing=())

    @property
    def feeding(self) -> TextFeeding:
        """``text_feeding``, or upstream's default for this kind of request."""
        return self.text_feeding or ("whole" if self.clone is None else "streaming")
