"""What engines are built from: the codec that they share, and the reference engine behind their interface."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from qwen3_tts_service.checkpoints.load import load
from qwen3_tts_service.engine.reference import ReferenceEngine
from qwen3_tts_service.errors import Cancelled, CheckpointError, DeadlineExceeded, UnknownVoice
from qwen3_tts_service.pipeline import ReferencePipeline, SharedCodec
from qwen3_tts_service.speech.request import SAMPLES_A_FRAME, Sampling, SpeechRequest

GREEDY = Sampling(greedy=True)
REQUEST = SpeechRequest("Yes.", "vivian", sampling=GREEDY)


def far() -> float:
    return time.monotonic() + 60


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path) -> ReferencePipeline:
    return ReferencePipeline(ReferenceEngine(load(tiny_checkpoint, device="cpu", cpu_threads=1)))


def test_the_reference_speaks(reference: ReferencePipeline) -> None:
    utterance = reference.open(REQUEST, deadline=far())
    np.testing.assert_array_equal(np.concatenate(list(utterance)), reference.engine.synthesize(REQUEST))
    assert utterance.finish == "stop"
    assert reference.slots == 1


def test_the_reference_tells_how_it_ended(reference: ReferencePipeline) -> None:
    short = reference.open(SpeechRequest("Yes.", "vivian", max_frames=2, sampling=GREEDY), deadline=far())
    assert sum(map(len, short)) == 2 * SAMPLES_A_FRAME
    assert short.finish == "length"

    late = reference.open(REQUEST, deadline=time.monotonic() - 1)
    with pytest.raises(DeadlineExceeded):
        list(late)
    assert (late.finish, list(late)) == ("deadline", [])

    given_up = reference.open(REQUEST, deadline=far())
    given_up.cancel()
    gone = reference.open(REQUEST, deadline=far(), cancelled=lambda: True)
    for utterance in (given_up, gone):
        with pytest.raises(Cancelled):
            list(utterance)
        assert (utterance.finish, list(utterance)) == ("cancelled", [])


def test_the_reference_refuses_before_it_begins(reference: ReferencePipeline) -> None:
    with pytest.raises(UnknownVoice):
        reference.open(SpeechRequest("Yes.", "nobody"), deadline=far())


def codec_threads() -> int:
    return sum(thread.name == "codec" for thread in threading.enumerate())


def test_models_share_one_codec_until_the_last_has_gone(tiny_checkpoint: Path, tmp_path: Path) -> None:
    before = codec_threads()
    codec = SharedCodec(threads=1, compile=False)
    assert codec.worker is None
    first, second = (load(tiny_checkpoint, device="cpu", cpu_threads=1) for _ in range(2))
    assert codec.take(first) is codec.take(second) is codec.worker
    for model in (first, second):
        assert model.upstream.model.speech_tokenizer.model.decoder is None

    other = tmp_path / "other"
    shutil.copytree(tiny_checkpoint, other)
    weights = other / "speech_tokenizer" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-4] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="holds another codec"):
        codec.take(load(other, device="cpu", cpu_threads=1))

    codec.give_back()
    assert codec.worker is not None
    assert codec_threads() == before + 1
    codec.give_back()
    assert codec.worker is None
    assert codec_threads() == before
    # A codec of its own is fine.
    codec.take(load(other, device="cpu", cpu_threads=1))
    codec.give_back()
