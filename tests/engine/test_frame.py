"""Whole frames against upstream's generate: the same codes, and scores within a stated difference."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from qwen3_tts_service.engine.frame import FrameModel
from qwen3_tts_service.engine.reference import ReferenceEngine
from qwen3_tts_service.errors import InputTooLong, InvalidValue
from qwen3_tts_service.speech.request import Sampling, SpeechRequest

from .frame_runs import GREEDY, Run, Voice, Voices, alone, compare, prompt_for, upstream_run

TEXT = (
    "The quick brown fox jumps over the lazy dog, and then it runs away into the dark forest, "
    "where nobody will find it before the morning comes."
)
#: Different for each voice, so that rows with different settings share the batch.
SETTINGS = (
    Sampling(),
    Sampling(temperature=1.3, top_k=0, subtalker_top_k=5),
    GREEDY,
    Sampling(top_p=0.8, repetition_penalty=1.5, subtalker_temperature=0.5, subtalker_top_p=0.9),
)
SLOTS = 4


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> ReferenceEngine:
    return ReferenceEngine.load(tiny_checkpoint, device="cpu", cpu_threads=1)


@pytest.fixture(scope="module")
def model(engine: ReferenceEngine) -> FrameModel:
    return FrameModel(engine.model, slots=SLOTS, positions=512)


@pytest.fixture(scope="module")
def voices(engine: ReferenceEngine) -> list[Voice]:
    """Four requests that differ in everything."""
    requests = (
        SpeechRequest("Hello.", "vivian"),
        SpeechRequest("One, two, three, four.", "ryan", "english", text_feeding="streaming"),
        SpeechRequest("Good morning to you all.", "dylan", instructions="Whisper."),
        SpeechRequest("Yes?", "eric", text_feeding="streaming"),
    )
    return [
        Voice(prompt_for(engine, request), sampling, seed=7 * index, max_frames=25)
        for index, (request, sampling) in enumerate(zip(requests, SETTINGS, strict=True))
    ]


@pytest.fixture(scope="module")
def lone_runs(model: FrameModel, voices: list[Voice]) -> list[Run]:
    return [alone(model, voice) for voice in voices]


@pytest.mark.slow
def test_greedy_speech_is_upstreams_alone_and_among_others(
    engine: ReferenceEngine, model: FrameModel, voices: list[Voice]
) -> None:
    """Over 100 frames, to upstream's own end: with neighbours that come and go, a pause and two moves."""
    request = SpeechRequest(TEXT, "vivian", max_frames=300)
    expected = upstream_run(engine, request)
    assert len(expected.codes) >= 100
    prompt = prompt_for(engine, request)
    by_itself = compare(alone(model, Voice(prompt)), expected)

    ours = Voice(prompt)
    with Voices(model) as batch:
        batch.enter(replace(voices[0], run=Run()), 0)
        batch.frame()
        batch.enter(ours, 1)
        frames, slot = 0, 1
        while not ours.done:
            if frames == 20:
                batch.enter(replace(voices[1], run=Run()), 2)
                batch.enter(replace(voices[2], run=Run()), 3)
            if frames == 50:
                batch.move(slot, 0)
                slot = 0
            if frames == 70:
                batch.move(slot, 3)
                slot = 3
            resting = [slot] if 30 <= frames < 36 else []
            batch.frame(paused=resting)
            frames += 1
    among_others = compare(ours.run, expected)
    for agreement in (by_itself, among_others):
        assert agreement.gap is None
    print(
        f"{by_itself.frames} frames; scores differ from upstream's by at most {by_itself.difference:.1e} alone, "
        f"{among_others.difference:.1e} in a batch"
    )


@pytest.mark.slow
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_voice_does_not_hear_its_neighbours(
    model: FrameModel, voices: list[Voice], lone_runs: list[Run], data: st.DataObject
) -> None:
    """Any order of entering, pausing and moving: the codes of the undisturbed run."""
    fresh = [replace(voice, run=Run(), done=False) for voice in voices]
    waiting = data.draw(st.permutations(fresh), label="order")
    with Voices(model) as batch:
        while waiting or any(batch.slots):
            free = [slot for slot, voice in enumerate(batch.slots) if voice is None]
            taken = [slot for slot, voice in enumerate(batch.slots) if voice is not None]
            event = data.draw(st.sampled_from(["enter", "move", "frames", "frames"]), label="event")
            if event == "enter" and waiting and free:
                batch.enter(waiting.pop(), data.draw(st.sampled_from(free), label="slot"))
            elif event == "move" and taken and free:
                batch.move(data.draw(st.sampled_from(taken)), data.draw(st.sampled_from(free)))
            else:
                resting = data.draw(st.sets(st.sampled_from(taken)), label="paused") if taken else set()
                for _ in range(4):
                    batch.frame(paused=resting)
    for voice, expected in zip(fresh, lone_runs, strict=True):
        agreement = compare(voice.run, expected)
        if agreement.gap is not None:
            print(f"parted after {agreement.frames} frames, candidates {agreement.gap:.1e} apart")


def test_the_length_that_attention_reads_changes_nothing(
    model: FrameModel, voices: list[Voice], lone_runs: list[Run]
) -> None:
    voice = replace(voices[0], run=Run(), done=False)
    with Voices(model) as batch:
        batch.enter(voice, 0)
        while not voice.done:
            batch.frame(length=512)
    assert compare(voice.run, lone_runs[0]).frames == len(lone_runs[0].codes)


def test_speech_is_cut_at_its_limit_and_says_how_it_ended(
    engine: ReferenceEngine, model: FrameModel, voices: list[Voice]
) -> None:
    cut = replace(voices[0], max_frames=3, run=Run())
    assert len(alone(model, cut).codes) == 3
    assert int(model.state.codes[0, 0]) != model.eos
    # Speech that ends by itself shows the end-of-speech id; the row then keeps what it has.
    request = SpeechRequest("A.", "vivian", max_frames=100)
    run = alone(model, Voice(prompt_for(engine, request)))
    assert len(run.codes) < 100
    assert int(model.state.codes[0, 0]) == model.eos
    before = model.state.codes.clone(), model.state.position.clone()
    model.frame(1, 128)
    assert torch.equal(model.state.codes, before[0])
    assert torch.equal(model.state.position, before[1])


def test_speech_is_clamped_to_the_room_behind_the_prompt(
    engine: ReferenceEngine, model: FrameModel, voices: list[Voice]
) -> None:
    small = FrameModel(engine.model, slots=1, positions=len(voices[0].prompt.embeds) + 4)
    assert small.admit(0, voices[0].prompt, Sampling(), 0, 100) == 5
    with Voices(small) as batch:
        voice = replace(voices[0], run=Run(), max_frames=100)
        batch.enter(voice, 0)
        while not voice.done:
            batch.frame(length=small.positions)
    assert len(voice.run.codes) == 5
    compare(voice.run, alone(model, voices[0]).first(5))


class NoWaiting(TorchDispatchMode):
    """Raises where a value would be carried from the device to Python, or decide the size of a tensor."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), names: Any = None) -> Any:
        name = function.__name__.split(".")[0]
        assert name not in self.WAITS, f"{name} waits for the device"
        return function(*arguments, **(names or {}))


def test_a_frame_never_waits_and_keeps_its_tensors_in_place(model: FrameModel, voices: list[Voice]) -> None:
    """What a graph needs that is captured once and replayed."""
    for slot, voice in enumerate(voices):
        model.admit(slot, voice.prompt, voice.sampling, voice.seed, voice.max_frames)
    places = {field.name: getattr(model.state, field.name).data_ptr() for field in fields(model.state)}
    with NoWaiting():
        model.frame(SLOTS, 128)
        with pytest.raises(AssertionError, match="waits"):
            bool(model.state.done[0])
    assert places == {name: getattr(model.state, name).data_ptr() for name in places}
    assert model.state.step.tolist() == [1] * SLOTS


def test_what_does_not_fit_is_refused_by_name(engine: ReferenceEngine, voices: list[Voice]) -> None:
    prompt = voices[1].prompt
    small = FrameModel(engine.model, slots=1, positions=len(prompt.embeds) - 1)
    with pytest.raises(InputTooLong, match=f"prompt has {len(prompt.embeds)} positions"):
        small.admit(0, prompt, Sampling(), 0, 10)
    narrow = FrameModel(engine.model, slots=1, positions=64, max_trailing=len(prompt.trailing) - 1)
    with pytest.raises(InputTooLong, match=f"text has {len(prompt.trailing)} tokens"):
        narrow.admit(0, prompt, Sampling(), 0, 10)
    with pytest.raises(InvalidValue, match="max_frames is 0"):
        narrow.admit(0, voices[0].prompt, Sampling(), 0, 0)


def test_every_bit_of_a_seed_counts_and_the_slot_does_not(model: FrameModel, voices: list[Voice]) -> None:
    def say(seed: int, slot: int) -> list[list[int]]:
        return alone(model, replace(voices[0], seed=seed, max_frames=4), slot=slot).codes

    assert say(5, 0) == say(5, 3)
    assert say(5 + (1 << 64), 0) == say(5, 0)
    spoken = [say(seed, 0) for seed in (5, 6, 5 + (1 << 33), -5, 5 + (1 << 63))]
    assert all(one != other for index, one in enumerate(spoken) for other in spoken[:index])


def test_a_nan_in_a_slot_does_not_outlive_its_request(
    model: FrameModel, voices: list[Voice], lone_runs: list[Run]
) -> None:
    model.talker.cache.whole[:, :, 0] = torch.nan
    compare(alone(model, voices[0]), lone_runs[0])
