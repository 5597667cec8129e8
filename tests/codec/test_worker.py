"""The worker's threads: order, batches, faults, ends. With a decoder that is all arithmetic."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pytest
import torch

from qwen3_tts_service.codec import worker as worker_module
from qwen3_tts_service.codec.chunking import CPU_SHAPES, Shape
from qwen3_tts_service.codec.worker import CodecStream, CodecWorker
from qwen3_tts_service.cores import Cores
from qwen3_tts_service.errors import DeviceFault, Draining, EngineError, TTSError

from .toy_decoder import SAMPLES, ToyDecoder, frames, sound

WAIT_S = 10.0


class Listener:
    """Keeps what a stream says; ``end`` is what on_end was called with."""

    def __init__(self, worker: CodecWorker, context: npt.NDArray[np.int64] | None = None) -> None:
        self.chunks: list[npt.NDArray[np.float32]] = []
        self._ends: queue.Queue[TTSError | None] = queue.Queue()
        self.stream: CodecStream = worker.open(self.chunks.append, self._ends.put, context=context)

    def say(self, codes: npt.NDArray[np.int32], *, finish: bool = True) -> None:
        for frame in codes:
            self.stream.push(frame)
        if finish:
            self.stream.finish()

    def end(self) -> TTSError | None:
        return self._ends.get(timeout=WAIT_S)

    def has_ended(self) -> bool:
        return not self._ends.empty()

    @property
    def heard(self) -> npt.NDArray[np.float32]:
        return np.concatenate(self.chunks) if self.chunks else np.zeros(0, np.float32)


@contextmanager
def running(decoder: ToyDecoder, **arguments: object) -> Iterator[CodecWorker]:
    worker = CodecWorker(decoder, **arguments)  # type: ignore[arg-type]
    worker.start()
    decoder.calls.clear()
    try:
        yield worker
    finally:
        decoder.hold.set()
        assert worker.stop()


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def test_many_streams_hear_their_own_frames_whole_and_in_order() -> None:
    with running(ToyDecoder(frame_s=1e-5)) as worker:
        codes = [frames(n, seed=n) for n in (1, 2, 3, 16, 17, 31, 64, 100, 0)]
        listeners = [Listener(worker) for _ in codes]
        for step in range(100):
            for listener, mine in zip(listeners, codes, strict=True):
                if step < len(mine):
                    listener.stream.push(mine[step])
        for listener in listeners:
            listener.stream.finish()
        for listener, mine in zip(listeners, codes, strict=True):
            assert listener.end() is None
            assert listener.stream.backlog == 0
            np.testing.assert_allclose(listener.heard, sound(mine), rtol=1e-6)
            assert all(chunk.dtype == np.float32 and chunk.ndim == 1 for chunk in listener.chunks)
        stats = worker.stats()
        assert (stats.streams, stats.backlog) == (0, 0)
        assert stats.frames == sum(map(len, codes))
        assert 0 < stats.busy <= 1


def test_the_decoder_sees_only_the_shapes_that_were_announced() -> None:
    decoder = ToyDecoder()
    with running(decoder) as worker:
        listeners = [Listener(worker) for _ in range(7)]
        for listener in listeners:
            listener.say(frames(45, seed=1))
        for listener in listeners:
            assert listener.end() is None
        assert {(batch, count) for batch, count, _ in decoder.calls} <= set(CPU_SHAPES)
        assert sum(worker.stats().decodes.values()) == len(decoder.calls)


def test_every_shape_runs_on_the_codecs_thread_before_the_first_stream() -> None:
    decoder = ToyDecoder()
    worker = CodecWorker(decoder)
    worker.start()
    warm = set(decoder.calls)
    assert worker.stop()
    assert warm == {(*shape, "codec") for shape in CPU_SHAPES}


def test_first_sound_comes_after_one_frame_and_chunks_grow() -> None:
    decoder = ToyDecoder()
    with running(decoder) as worker:
        listener = Listener(worker)
        decoder.hold.clear()
        listener.stream.push(frames(1, seed=0)[0])
        wait_for(lambda: decoder.calls)
        listener.say(frames(40, seed=0)[1:])
        decoder.hold.set()
        assert listener.end() is None
        assert [len(chunk) // SAMPLES for chunk in listener.chunks] == [1, 2, 4, 8, 16, 8, 1]
        assert [decode.frames for decode in listener.stream.decodes] == [1, 2, 4, 8, 16, 8, 1]


def test_a_starved_stream_does_not_wait_for_more_frames() -> None:
    with running(ToyDecoder()) as worker:
        listener = Listener(worker)
        codes = frames(4, seed=0)
        for count, frame in enumerate(codes, start=1):
            listener.stream.push(frame)
            wait_for(lambda count=count: len(listener.heard) == count * SAMPLES)  # type: ignore[misc]
        assert listener.stream.backlog == 0
        assert not listener.has_ended()


def test_streams_that_are_fresh_together_share_a_batch() -> None:
    decoder = ToyDecoder(call_s=0.02)
    with running(decoder) as worker:
        first = Listener(worker)
        decoder.hold.clear()
        first.say(frames(1, seed=0))
        wait_for(lambda: decoder.calls)
        others = [Listener(worker) for _ in range(4)]
        for seed, other in enumerate(others):
            other.say(frames(1, seed=seed))
        decoder.hold.set()
        assert [other.end() for other in others] == [None] * 4
        assert [(batch, count) for batch, count, _ in decoder.calls] == [(1, 1), (4, 1)]


@pytest.mark.measuring
def test_a_fresh_stream_overtakes_those_that_wait_with_more() -> None:
    decoder = ToyDecoder(frame_s=0.002)
    with running(decoder) as worker:
        old = [Listener(worker) for _ in range(3)]
        for listener in old:
            listener.say(frames(200, seed=3))
        wait_for(lambda: all(len(listener.chunks) > 4 for listener in old))
        fresh = Listener(worker)
        before = sum(len(listener.chunks) for listener in old)
        fresh.stream.push(frames(1, seed=4)[0])
        wait_for(lambda: fresh.chunks)
        # One that was under way, and one more that may have begun before the frame was put down.
        assert sum(len(listener.chunks) for listener in old) - before <= 2


def test_a_fault_in_one_stream_ends_that_stream_alone(caplog: pytest.LogCaptureFixture) -> None:
    decoder = ToyDecoder(call_s=0.02)
    with running(decoder) as worker:
        blocker = Listener(worker)
        decoder.hold.clear()
        blocker.say(frames(1, seed=0))
        wait_for(lambda: decoder.calls)
        good = [Listener(worker) for _ in range(3)]
        for seed, listener in enumerate(good):
            listener.say(frames(30, seed=seed))
        bad = Listener(worker)
        bad.say(np.full((30, 16), -1, np.int32))
        decoder.hold.set()
        error = bad.end()
        assert type(error) is EngineError
        assert "out of range" in error.message
        for seed, listener in enumerate(good):
            assert listener.end() is None
            np.testing.assert_allclose(listener.heard, sound(frames(30, seed=seed)), rtol=1e-6)
        assert (bad.chunks, bad.has_ended(), bad.stream.backlog) == ([], False, 0)
        assert Shape(4, 1) in {(batch, count) for batch, count, _ in decoder.calls}


def test_a_continued_recording_is_heard_and_not_played() -> None:
    decoder = ToyDecoder()
    with running(decoder) as worker:
        recording = frames(23, seed=1).astype(np.int64)
        mine = frames(20, seed=2)
        expected = sound(np.concatenate((recording.astype(np.int32), mine)))[23 * SAMPLES :]
        for turn in range(2):
            listener = Listener(worker, context=recording)
            listener.say(mine)
            assert listener.end() is None
            np.testing.assert_allclose(listener.heard, expected, rtol=1e-6)
            assert listener.stream.backlog == 0
            decoded = sum(batch * count for batch, count, _ in decoder.calls)
            # The second time the recording is known.
            assert (decoder.heard, decoded) == (23 - decoder.reach, decoder.reach + 20 + 20 * turn)
        assert len(worker._heard._states) == 1
        del recording, listener
        assert len(worker._heard._states) == 0


def test_a_recording_that_is_half_heard_is_not_known_yet() -> None:
    decoder = ToyDecoder(frame_s=0.001)
    recording = frames(40, seed=1).astype(np.int64)
    expected = sound(np.concatenate((recording.astype(np.int32), frames(3, seed=2))))[40 * SAMPLES :]
    with running(decoder) as worker:
        listeners = [Listener(worker, context=recording)]
        wait_for(lambda: decoder.heard)
        listeners.append(Listener(worker, context=recording))
        for listener in listeners:
            listener.say(frames(3, seed=2))
        for listener in listeners:
            assert listener.end() is None
            np.testing.assert_allclose(listener.heard, expected, rtol=1e-6)


def test_sound_of_the_wrong_length_or_no_number_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = ToyDecoder()
    whole = decoder.decode
    with running(decoder) as worker:
        monkeypatch.setattr(decoder, "decode", lambda codes, states: whole(codes, states)[:, :-1])
        short = Listener(worker)
        short.say(frames(3, seed=0))
        error = short.end()
        assert isinstance(error, EngineError)
        assert "a frame is 1920" in error.message
        monkeypatch.setattr(decoder, "decode", lambda codes, states: whole(codes, states) / 0)
        loud = Listener(worker)
        loud.say(frames(3, seed=0))
        error = loud.end()
        assert isinstance(error, EngineError)
        assert "NaN or infinity" in error.message
        assert (short.chunks, loud.chunks) == ([], [])


def test_a_receiver_that_fails_harms_nobody_else() -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("planted")

    with running(ToyDecoder()) as worker:
        ends: queue.Queue[TTSError | None] = queue.Queue()
        broken = worker.open(fail, ends.put)
        broken.push(frames(1, seed=0)[0])
        error = ends.get(timeout=WAIT_S)
        assert isinstance(error, EngineError)
        deaf = worker.open(lambda chunk: None, fail)
        deaf.finish()
        listener = Listener(worker)
        listener.say(frames(5, seed=0))
        assert listener.end() is None


def test_a_lost_device_ends_every_stream_and_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = ToyDecoder()
    faults: queue.Queue[DeviceFault] = queue.Queue()
    with running(decoder, on_device_fault=faults.put) as worker:

        def lose(codes: torch.Tensor, states: object) -> torch.Tensor:
            raise RuntimeError("HIP error: an illegal memory access was encountered")

        silent = Listener(worker)
        monkeypatch.setattr(decoder, "decode", lose)
        speaking = Listener(worker)
        speaking.say(frames(3, seed=0), finish=False)
        for listener in (silent, speaking):
            assert isinstance(listener.end(), DeviceFault)
        assert "illegal memory access" in faults.get(timeout=WAIT_S).message
        with pytest.raises(DeviceFault):
            Listener(worker)
    assert faults.empty()


def test_a_cancelled_stream_is_forgotten() -> None:
    decoder = ToyDecoder()
    with running(decoder) as worker:
        listener = Listener(worker)
        decoder.hold.clear()
        listener.say(frames(20, seed=0))
        wait_for(lambda: decoder.calls)
        listener.stream.cancel()
        decoder.hold.set()
        other = Listener(worker)
        other.say(frames(3, seed=0))
        assert other.end() is None
        listener.stream.push(frames(1, seed=0)[0])
        assert listener.stream.backlog == 0
        assert len(listener.chunks) == 0
        assert not listener.has_ended()
        assert worker.stats().streams == 0


def test_stopping_tells_who_still_listens() -> None:
    worker = CodecWorker(ToyDecoder())
    worker.start()
    listener = Listener(worker)
    listener.say(frames(1, seed=0), finish=False)
    wait_for(lambda: listener.chunks)
    assert worker.stop()
    assert isinstance(listener.end(), Draining)
    with pytest.raises(Draining):
        Listener(worker)


def test_a_decoder_that_does_not_run_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = ToyDecoder()
    decoder.hold.set()

    def fail(*_: object) -> torch.Tensor:
        raise RuntimeError("no compiler found")

    monkeypatch.setattr(decoder, "decode", fail)
    with pytest.raises(EngineError, match="no compiler found"):
        CodecWorker(decoder).start()


def test_codec_threads_have_their_own_count_of_torch_threads() -> None:
    """Others keep theirs: those that ran before, and those that begin later."""
    seen: list[int] = []

    class Counting(ToyDecoder):
        def decode(self, codes: torch.Tensor, states: list[object]) -> torch.Tensor:  # type: ignore[override]
            # A parallel operation: the first one takes the process's count over where none is set.
            torch.ones(1 << 20).sin()
            seen.append(torch.get_num_threads())
            return super().decode(codes, states)  # type: ignore[arg-type]

    here = torch.get_num_threads()
    own = here + 2
    with running(Counting(), threads=own) as worker:
        listener = Listener(worker)
        listener.say(frames(3, seed=0))
        assert listener.end() is None
        later: list[int] = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [here]
        assert torch.get_num_threads() == here
    assert set(seen) == {own}


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Cores:
    """Cores that an engine computes with too."""
    cores = Cores()
    cores.shared = True
    monkeypatch.setattr(worker_module, "cores", cores)
    return cores


def test_a_frame_that_is_due_is_decoded_before_its_engine_makes_the_next(shared: Cores) -> None:
    decoder = ToyDecoder()
    with running(decoder) as worker:
        for number in range(50):
            listener = Listener(worker)
            with shared.turn():
                pass
            listener.stream.push(frames(1, seed=number)[0])
            with shared.turn():
                assert len(decoder.calls) == number + 1


def test_nothing_is_decoded_while_the_engine_has_the_cores(shared: Cores) -> None:
    decoder = ToyDecoder()
    with running(decoder) as worker:
        with shared.turn():
            listener = Listener(worker)
            codes = frames(20, seed=0)
            listener.say(codes)
            time.sleep(0.05)
            assert decoder.calls == []
        assert listener.end() is None
        np.testing.assert_allclose(listener.heard, sound(codes), rtol=1e-6)


def test_a_stream_given_up_before_its_turn_holds_nobody(shared: Cores) -> None:
    decoder = ToyDecoder()
    with running(decoder) as worker:
        for _ in range(20):
            with shared.turn():
                listener = Listener(worker)
                listener.stream.push(frames(1, seed=0)[0])
                listener.stream.cancel()
            with shared.turn():
                pass
        assert decoder.calls == []


def test_a_worker_that_has_ended_asks_for_no_turn(shared: Cores) -> None:
    worker = CodecWorker(ToyDecoder())
    worker.start()
    listener = Listener(worker)
    assert worker.stop()
    listener.stream.push(frames(1, seed=0)[0])
    listener.stream.finish()
    with shared.turn():
        pass
