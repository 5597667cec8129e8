"""Speech frame by frame, with the scores behind every code: upstream's and the frame model's, and their comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from qwen3_tts_service.bench.parity import last_processor
from qwen3_tts_service.engine import sampling as draw
from qwen3_tts_service.engine.frame import FrameModel, FramePrompt
from qwen3_tts_service.engine.prompt import PromptBuilder
from qwen3_tts_service.engine.reference import ReferenceEngine
from qwen3_tts_service.speech.request import Sampling, SpeechRequest

GREEDY = Sampling(greedy=True)
#: How far the scores of the same frame may be apart between any two runs, in float32.
TOLERANCE = 1e-4
LENGTHS = (64, 128, 256, 512)


@dataclass(frozen=True)
class Run:
    """Frames of 16 codes and, behind each code, its candidates: [frames][16] of [tokens].

    ``scores`` are the logits with the talker's penalty and suppressions, ``race`` is what the code was the
    largest of: the same for a greedy voice, else what top_k and top_p left, with its noise.
    """

    codes: list[list[int]] = field(default_factory=list)
    scores: list[list[Tensor]] = field(default_factory=list)
    race: list[list[Tensor]] = field(default_factory=list)

    def first(self, frames: int) -> Run:
        return Run(self.codes[:frames], self.scores[:frames], self.race[:frames])


@dataclass(frozen=True)
class Agreement:
    """``difference``: largest between two finite scores of the same candidate. ``frames``: that were compared.

    ``gap`` is None, or the distance of the two candidates where the codes parted for being too close.
    """

    difference: float
    frames: int
    gap: float | None


def compare(ours: Run, expected: Run, tolerance: float = TOLERANCE) -> Agreement:
    """Assert that two runs are the same speech, score by score.

    Codes may only differ where that hangs on twice the tolerance: the two candidates so close, or one of them
    so close to being cut by top_k or top_p. After that the speech is another one and the comparison ends.
    """
    largest = 0.0
    for frame in range(min(len(ours.codes), len(expected.codes))):
        for codebook in range(16):
            one, other = ours.scores[frame][codebook], expected.scores[frame][codebook]
            where = f"frame {frame}, codebook {codebook}"
            assert torch.equal(one.isinf(), other.isinf()), f"{where}: other candidates are suppressed"
            largest = max(largest, float((one - other)[~one.isinf()].abs().max()))
            assert largest <= tolerance, f"{where}: scores differ by {largest:.2g}"
            code, instead = ours.codes[frame][codebook], expected.codes[frame][codebook]
            if code != instead:
                gap = _how_close(one, ours.race[frame][codebook], code, instead)
                assert gap <= 2 * tolerance, f"{where}: another code, though the two are {gap:.2g} apart"
                return Agreement(largest, frame, gap)
    assert len(ours.codes) == len(expected.codes)
    return Agreement(largest, len(ours.codes), None)


def _how_close(scores: Tensor, race: Tensor, code: int, instead: int) -> float:
    """How little would have made ``instead`` win: its distance in the race, or to being in it at all."""
    if race[instead].isinf():
        return float((scores[~race.isinf()].min() - scores[instead]).abs())
    left = ~race.isinf()
    to_leave = float((scores[code] - scores[left].min()).abs())
    return min(float(race[code] - race[instead]), to_leave)


def upstream_run(engine: ReferenceEngine, request: SpeechRequest) -> Run:
    """Greedy speech by upstream's generate; scores as its own processors leave them."""
    talker: Any = engine.model.upstream.model.talker
    drawn: list[list[Tensor]] = []

    def keep_talkers(_: Tensor, scores: Tensor) -> Tensor:
        drawn.append([scores[0].clone()])
        return scores

    def keep_predictors(_: Tensor, scores: Tensor) -> Tensor:
        drawn[-1].append(scores[0].clone())
        return scores

    with last_processor(talker, keep_talkers), last_processor(talker.code_predictor, keep_predictors):
        codes = engine.codes(request, greedy=True).tolist()
    return Run(codes, drawn[: len(codes)], drawn[: len(codes)])


@dataclass(eq=False)
class Voice:
    """One request on its way: what it was asked for and what it has said."""

    prompt: FramePrompt
    sampling: Sampling = GREEDY
    seed: int = 0
    max_frames: int = 400
    run: Run = field(default_factory=Run)
    done: bool = False


class Voices:
    """Plays the scheduler: voices enter, pause, move and leave between the frames of one FrameModel."""

    def __init__(self, model: FrameModel) -> None:
        self.model = model
        self.slots: list[Voice | None] = [None] * model.slots
        self._drawn: list[tuple[Tensor, Tensor]] = []
        self._sample = model.sample_fn
        model.sample_fn = self._sample_and_keep
        model.state.active.zero_()

    def __enter__(self) -> Voices:
        return self

    def __exit__(self, *_: object) -> None:
        self.model.sample_fn = self._sample

    def enter(self, voice: Voice, slot: int) -> None:
        assert self.slots[slot] is None
        self.model.admit(slot, voice.prompt, voice.sampling, voice.seed, voice.max_frames)
        self.slots[slot] = voice

    def leave(self, slot: int) -> None:
        self.slots[slot] = None

    def move(self, source: int, target: int) -> None:
        assert self.slots[target] is None
        self.model.move(source, target)
        self.slots[target], self.slots[source] = self.slots[source], None

    def frame(self, *, batch: int | None = None, paused: Iterable[int] = (), length: int = 0) -> None:
        """One frame of all voices but the paused ones; those that end leave their slots."""
        state = self.model.state
        resting = set(paused)
        going = [slot for slot, voice in enumerate(self.slots) if voice is not None and slot not in resting]
        if not going:
            return
        for slot in range(self.model.slots):
            state.active[slot] = slot in going
        used = 1 + max(int(state.position[slot]) for slot in going)
        self._drawn.clear()
        # As the service computes it.
        with torch.inference_mode():
            self.model.frame(batch or going[-1] + 1, length or next(size for size in LENGTHS if size >= used))
        for slot in going:
            voice = self.slots[slot]
            assert voice is not None
            codes = state.codes[slot].tolist()
            voice.done = bool(state.done[slot])
            if codes[0] != self.model.eos:
                voice.run.codes.append(codes)
                voice.run.scores.append([scores[slot] for scores, _ in self._drawn])
                voice.run.race.append([race[slot] for _, race in self._drawn])
            if voice.done:
                self.leave(slot)

    def _sample_and_keep(self, logits: Tensor, **settings: Any) -> Tensor:
        """Draw, and keep what decides: what the sampling itself computes on its way, which takes a third of a frame."""
        parts: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., Tensor]:
            compute = getattr(draw, name)

            def kept(*arguments: Any, **named: Any) -> Tensor:
                parts[name] = compute(*arguments, **named)
                return parts[name]

            return kept

        with (
            patch.object(draw, "process", keep("process")),
            patch.object(draw, "uniform", keep("uniform")),
        ):
            codes = self._sample(logits, **settings)
        noise = -torch.log(-torch.log(parts["uniform"]))
        race = torch.where(settings["greedy"][:, None], logits, parts["process"] + noise)
        self._drawn.append((logits.clone(), race))
        return codes


def alone(model: FrameModel, voice: Voice, *, slot: int = 0, batch: int | None = None) -> Run:
    """What the voice says with nobody beside it."""
    fresh = replace(voice, run=Run(), done=False)
    with Voices(model) as voices:
        voices.enter(fresh, slot)
        while not fresh.done:
            voices.frame(batch=batch)
    return fresh.run


def prompt_for(engine: ReferenceEngine, request: SpeechRequest) -> FramePrompt:
    return PromptBuilder(engine.model).build(request)
