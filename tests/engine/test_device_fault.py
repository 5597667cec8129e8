"""Errors after which a GPU is lost are told from those that concern one request."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen3_tts_service.engine.reference import ReferenceEngine
from qwen3_tts_service.errors import DeviceFault, EngineError
from qwen3_tts_service.speech.request import SpeechRequest

REQUEST = SpeechRequest("Yes.", "vivian", seed=0, max_frames=3)


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> ReferenceEngine:
    return ReferenceEngine.load(tiny_checkpoint, device="cpu", cpu_threads=1)


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("HIP error: an illegal memory access was encountered", True),
        ("CUDA error: device-side assert triggered", True),
        ("HIP out of memory. Tried to allocate 2.00 GiB", False),
        ("shape '[1, 2]' is invalid for input of size 3", False),
    ],
)
@pytest.mark.parametrize("part", ["language model", "codec"])
def test_only_errors_of_the_device_are_faults(
    engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch, part: str, message: str, lost: bool
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(message)

    owner = engine.model.upstream.model
    if part == "language model":
        monkeypatch.setattr(owner, "generate", fail)
    else:
        monkeypatch.setattr(owner.speech_tokenizer, "decode", fail)
    with pytest.raises(EngineError, match=part) as caught:
        engine.synthesize(REQUEST)
    assert isinstance(caught.value, DeviceFault) is lost
    monkeypatch.undo()
    assert len(engine.synthesize(REQUEST)) == 3 * 1920
