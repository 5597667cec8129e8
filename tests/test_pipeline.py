"""A loaded model end to end, real parts throughout: what readers hear, and what one may do to another."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from qwen3_tts_service.checkpoints.load import load
from qwen3_tts_service.engine.reference import ReferenceEngine
from qwen3_tts_service.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineError,
    InputTooLong,
    UnknownVoice,
)
from qwen3_tts_service.narration import Narration
from qwen3_tts_service.pipeline import SharedCodec, StreamingEngine, Utterance, streaming_engine
from qwen3_tts_service.speech.request import SAMPLES_A_FRAME, CloneReference, Sampling, SpeechRequest

pytestmark = pytest.mark.slow

#: Enough for a machine whose two cores are busy with something else.
WAIT_S = 60.0
SLOTS = 2
AHEAD = 8
GREEDY = Sampling(greedy=True)
#: Where parts of a text meet they are faded, for 5 ms.
FADE = 120
RAMP = np.arange(FADE, dtype=np.float32) / FADE
#: Some fifty frames: the synthetic talker speaks in proportion to the text.
LONG = SpeechRequest("word " * 9, "vivian", seed=3)

Waveform = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def codec() -> SharedCodec:
    return SharedCodec(threads=1, compile=False)


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path, codec: SharedCodec) -> Iterator[StreamingEngine]:
    built = streaming_engine(
        load(tiny_checkpoint, device="cpu", cpu_threads=1),
        codec,
        slots=SLOTS,
        positions=384,
        ahead_frames=AHEAD,
        fastest="eager",
    )
    yield built
    assert built.close()


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path) -> ReferenceEngine:
    return ReferenceEngine(load(tiny_checkpoint, device="cpu", cpu_threads=1))


def begin(
    engine: StreamingEngine,
    request: SpeechRequest,
    timeout_s: float = WAIT_S,
    cancelled: Callable[[], bool] = lambda: False,
) -> Utterance:
    return engine.open(request, deadline=time.monotonic() + timeout_s, cancelled=cancelled)


def whole(utterance: Utterance) -> Waveform:
    return np.concatenate([np.zeros(0, np.float32), *utterance])


def wait_for(condition: Callable[[], object], what: str) -> None:
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.001)


def close_to(sound: Waveform, expected: Waveform) -> None:
    """Within the codec's bound: 1e-4 times the standard deviation."""
    assert sound.dtype == np.float32
    assert sound.shape == expected.shape
    assert float(np.abs(sound - expected).max()) <= 1e-4 * float(expected.std())


def test_a_text_in_parts_sounds_as_its_parts_do(engine: StreamingEngine) -> None:
    """With the silence between; the sampling is the checkpoint's but for what is changed."""
    drawing = (("temperature", 0.7), ("top_k", 20))
    request = SpeechRequest(
        "word word", "vivian", seed=5, drawing=drawing, more_parts=("one", "word more"), pause_s=0.1
    )
    narration = Narration(engine, request, deadline=time.monotonic() + WAIT_S, cancelled=lambda: False)
    heard = np.concatenate(list(narration.waveform))
    own = whole(begin(engine, SpeechRequest("one", "vivian", seed=6)))
    sampling = Sampling(temperature=0.7, top_k=20)
    utterances = [
        begin(engine, SpeechRequest(text, "vivian", seed=5 + number, sampling=sampling))
        for number, text in enumerate(("word word", "one", "word more"))
    ]
    alone = list(map(whole, utterances))
    silence = np.zeros(2400, np.float32)
    alone[0][-FADE:] *= RAMP[::-1]
    alone[1][:FADE] *= RAMP
    alone[1][-FADE:] *= RAMP[::-1]
    alone[2][:FADE] *= RAMP
    close_to(heard, np.concatenate([alone[0], silence, alone[1], silence, alone[2]]))
    assert len(own) != len(alone[1]) or np.abs(own - alone[1]).max() > 0.01, "the changes are heard"
    assert narration.text_tokens == sum(utterance.text_tokens for utterance in utterances)
    assert narration.finish == "stop"


def test_streamed_sound_is_the_references(engine: StreamingEngine, reference: ReferenceEngine) -> None:
    """Three times as many requests as slots, of different lengths, entering and leaving among each other."""
    requests = [
        SpeechRequest("word " * length, voice, max_frames=limit, sampling=GREEDY)
        for length, voice, limit in (
            (1, "vivian", 90),
            (5, "ryan", 90),
            (5, "serena", 7),
            (3, "eric", 90),
            (2, "aiden", 90),
            (2, "dylan", 1),
        )
    ]
    with ThreadPoolExecutor(len(requests)) as readers:
        utterances = list(readers.map(lambda request: begin(engine, request), requests))
        heard = list(readers.map(whole, utterances))
    for request, utterance, sound in zip(requests, utterances, heard, strict=True):
        codes = reference.codes(request)
        close_to(sound, reference.decode(codes))
        assert utterance.frames == len(codes) == len(sound) // SAMPLES_A_FRAME
        assert utterance.finish == ("length" if len(codes) == request.max_frames else "stop")
    assert {utterance.finish for utterance in utterances} == {"stop", "length"}


@pytest.mark.measuring
def test_sound_leaves_while_frames_are_made(engine: StreamingEngine) -> None:
    """Also on a CPU, where frames and decodes take turns: they are never done at once here."""
    utterance = begin(engine, LONG)
    assert len(whole(utterance)) > 30 * SAMPLES_A_FRAME
    times = utterance.timeline
    assert times.queued is not None
    assert times.admitted is not None
    assert times.first_audio is not None
    assert times.last_frame is not None
    assert times.last_audio is not None
    assert times.opened <= times.queued <= times.admitted <= times.frames[0] <= times.first_audio
    assert times.first_audio < times.last_frame <= times.last_audio
    assert sum(decode.frames for decode in times.decodes) == utterance.frames == len(times.frames)
    # All but what is left when the last frame is there: 16 frames of backlog at most, here a tenth.
    assert times.overlap_s > 0.7 * times.decode_s


def test_a_seed_sounds_the_same_alone_and_among_others(engine: StreamingEngine) -> None:
    request = SpeechRequest("Who is it?", "sohee", seed=7)
    alone = whole(begin(engine, request))
    others = [begin(engine, SpeechRequest("word " * n, "ryan", seed=n)) for n in (1, 3)]
    with ThreadPoolExecutor() as readers:
        among = readers.submit(whole, begin(engine, request))
        for other in others:
            whole(other)
    close_to(among.result(), alone)
    assert not np.array_equal(whole(begin(engine, SpeechRequest("Who is it?", "sohee", seed=8))), alone)


def test_without_a_seed_no_two_are_alike(engine: StreamingEngine) -> None:
    request = SpeechRequest("Yes.", "sohee", max_frames=5)
    assert not np.array_equal(whole(begin(engine, request)), whole(begin(engine, request)))


def busy(engine: StreamingEngine) -> int:
    return engine.stats().frames.busy


@pytest.mark.measuring
@pytest.mark.parametrize("way", ["cancel", "the client is gone"])
def test_a_cancelled_request_frees_its_slot_within_two_frames(engine: StreamingEngine, way: str) -> None:
    gone = threading.Event()
    other = begin(engine, LONG)
    given_up = begin(engine, LONG, cancelled=gone.is_set)
    with ThreadPoolExecutor() as readers:
        heard = readers.submit(whole, other)
        next(given_up)
        assert busy(engine) == 2
        frames, mine = engine.stats().frames.frames, given_up.frames
        if way == "cancel":
            given_up.cancel()
        else:
            gone.set()
        wait_for(lambda: busy(engine) == 1, "its slot is free")
        # The frame that was being computed when it was asked, and the one after.
        assert engine.stats().frames.frames - frames <= 2
        assert given_up.frames - mine <= 2
        with pytest.raises(Cancelled):
            whole(given_up)
        assert list(given_up) == []
        assert given_up.finish == "cancelled"
        assert len(heard.result()) == other.frames * SAMPLES_A_FRAME
    assert other.finish == "stop"
    wait_for(lambda: engine.stats().codec.streams == 0, "the codec has forgotten it")


def test_a_slow_reader_pauses_itself_alone(engine: StreamingEngine) -> None:
    expected = whole(begin(engine, LONG))
    slow = begin(engine, LONG)
    quick = whole(begin(engine, LONG))
    close_to(quick, expected)
    wait_for(lambda: engine.stats().frames.paused == 1, "it is paused")
    # One more may have been launched when it said that it is full.
    assert AHEAD <= slow.frames <= AHEAD + 1
    assert slow.finish is None
    close_to(whole(slow), expected)
    assert slow.finish == "stop"


def test_out_of_time(engine: StreamingEngine) -> None:
    utterance = begin(engine, LONG, timeout_s=0.2)
    with pytest.raises(DeadlineExceeded, match="frames of 80 ms were spoken"):
        whole(utterance)
    assert utterance.finish == "deadline"
    assert list(utterance) == []
    wait_for(lambda: busy(engine) == 0, "its slot is free")


def test_a_wrong_request_takes_nothing(engine: StreamingEngine) -> None:
    with pytest.raises(UnknownVoice):
        engine.check(SpeechRequest("Yes.", "nobody"))
    with pytest.raises(UnknownVoice):
        begin(engine, SpeechRequest("Yes.", "nobody"))
    with pytest.raises(InputTooLong, match="384"):
        whole(begin(engine, SpeechRequest("word " * 100, "vivian")))
    stats = engine.stats()
    assert (stats.frames.busy, stats.frames.queued, stats.codec.streams) == (0, 0, 0)


def test_a_fault_of_the_codec_ends_that_request(
    engine: StreamingEngine, codec: SharedCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert codec.worker is not None
    decoder = codec.worker._decoder
    with monkeypatch.context() as planted:

        def fail(*_: object) -> None:
            raise RuntimeError("planted")

        planted.setattr(decoder, "decode", fail)
        utterance = begin(engine, LONG)
        with pytest.raises(EngineError, match="planted"):
            whole(utterance)
    assert utterance.finish is None
    wait_for(lambda: busy(engine) == 0, "its slot is free")
    assert len(whole(begin(engine, SpeechRequest("Yes.", "vivian", seed=0)))) > 0


def test_speech_that_continues_a_recording_is_the_references(
    base_checkpoint: Path, codec: SharedCodec, engine: StreamingEngine
) -> None:
    """A second model beside the first, with the same codec; and the recording's own sound is not heard."""
    samples = np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32)
    reference = ReferenceEngine(load(base_checkpoint, device="cpu", cpu_threads=1))
    voice = reference.encode_reference(CloneReference(samples, 24_000, "Some words."))
    request = SpeechRequest("Go on.", clone=voice, max_frames=20, sampling=GREEDY)
    expected = reference.synthesize(request)
    clones = streaming_engine(
        load(base_checkpoint, device="cpu", cpu_threads=1), codec, slots=1, positions=384, fastest="eager"
    )
    assert clones.stats().codec is not None
    try:
        for _ in range(2):
            close_to(whole(begin(clones, request)), expected)
        frames = engine.stats().codec.frames
        whole(begin(clones, request))
        # The codec knows the recording by now.
        assert engine.stats().codec.frames - frames == len(expected) // SAMPLES_A_FRAME
        frame_model = weakref.ref(clones._scheduler._runner.model)  # type: ignore[attr-defined]
        assert frame_model() is not None
    finally:
        assert clones.close()
    assert frame_model() is None, "its weights are still in memory"
    # The first model's codec goes on.
    assert len(whole(begin(engine, SpeechRequest("Yes.", "vivian", seed=0)))) > 0
