"""What engines are built from: the codec that they share, and the reference engine behind their interface."""

from __future__ import annotations

import gc
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwen3_tts_service.checkpoints.load import load
from qwen3_tts_service.engine.frame import FrameModel
from qwen3_tts_service.engine.graphs import FrameRunner
from qwen3_tts_service.engine.reference import ReferenceEngine
from qwen3_tts_service.errors import Cancelled, CheckpointError, DeadlineExceeded, UnknownVoice
from qwen3_tts_service.pipeline import (
    ReferencePipeline,
    SharedCodec,
    StreamingEngine,
    shared_codec,
    streaming_engine,
)
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


@dataclass(frozen=True)
class Placed:
    """As much of a loaded model as says where it is and how many threads torch has."""

    device: torch.device
    codec_device: torch.device
    threads: int


@pytest.mark.parametrize(
    ("device", "codec_device", "threads", "own"),
    [
        ("cuda", "cpu", 16, 14),
        ("cuda", "cpu", 64, 56),
        ("cuda", "cpu", 8, 7),
        ("cuda", "cpu", 4, 4),
        # By turns with the language model, each has all cores; and on a GPU they do not matter.
        ("cpu", "cpu", 16, 0),
        ("cuda", "cuda", 16, 0),
    ],
)
def test_beside_a_gpu_the_codec_leaves_one_core_of_eight(
    device: str, codec_device: str, threads: int, own: int
) -> None:
    placed = Placed(torch.device(device), torch.device(codec_device), threads)
    assert shared_codec._own_threads(placed) == own  # type: ignore[arg-type]


def tensor_bytes(_device: torch.device) -> int:
    """What all tensors hold: to the byte, as the memory of a process is not."""
    # By their types: asking an object what it is wakes those that are imported when they are touched, and what a
    # compiler has traced with holds nothing.
    tensors = [item for item in gc.get_objects() if type(item) in (torch.Tensor, torch.nn.Parameter)]
    storages = [
        tensor.untyped_storage()
        for tensor in tensors
        if tensor.device.type == "cpu" and tensor.layout is torch.strided
    ]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_what_each_model_takes_is_told(
    tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its weights, and without what others take."""
    for module in ("checkpoints.load", "pipeline.loading"):
        monkeypatch.setattr(f"qwen3_tts_service.{module}.held_bytes", tensor_bytes)
    monkeypatch.setattr("qwen3_tts_service.pipeline.loading.GIB", 1)
    caplog.set_level("INFO")
    codec = SharedCodec(threads=1, compile=False)

    def build(slots: int) -> StreamingEngine:
        model = load(tiny_checkpoint, device="cpu", cpu_threads=1)
        return streaming_engine(model, codec, slots=slots, positions=384, fastest="eager")

    gc.collect()
    before = tensor_bytes(torch.device("cpu"))
    engines = [build(slots) for slots in (1, 2)]
    in_all = tensor_bytes(torch.device("cpu")) - before
    for engine in engines:
        engine.close()
    told = [record.args for record in caplog.records if "keys and values" in record.message]
    (_, first, _, weights, keys, *_), (_, second, _, same_weights, more_keys, *_) = told  # type: ignore[misc]
    assert weights == same_weights
    assert more_keys == 2 * keys
    assert min(first, second) > weights
    assert first + second == pytest.approx(in_all, rel=0.01)


@pytest.mark.parametrize("way", ["eager", "captured"])
def test_how_prompts_are_read_is_told(
    way: str, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU's runner captures their reading; here one says that it has."""

    def capturing(model: FrameModel, **settings: Any) -> FrameRunner:
        runner = FrameRunner(model, **settings)
        if way == "captured":
            model.prefill_fn = model.prefill
        return runner

    monkeypatch.setattr("qwen3_tts_service.pipeline.loading.FrameRunner", capturing)
    model = load(tiny_checkpoint, device="cpu", cpu_threads=1)
    codec = SharedCodec(threads=1, compile=False)
    engine = streaming_engine(model, codec, slots=1, positions=384, fastest="eager")
    assert engine.prompt_way == way
    engine.close()
