"""A checkpoint of each kind in one process: one loaded on first use, all put aside when idle, one codec."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest

from qwen3_tts_service.admission import Limits
from qwen3_tts_service.config import Settings
from qwen3_tts_service.engine_process.loading import EngineLoader
from qwen3_tts_service.lifecycle import Lifecycle, ModelSource
from qwen3_tts_service.speech.formats import Output
from qwen3_tts_service.speech.request import SpeechRequest
from server_process import wait_for

pytestmark = pytest.mark.slow


def test_they_come_when_they_are_named_and_go_when_they_are_not(
    tiny_checkpoint: Path, base_checkpoint: Path, design_checkpoint: Path
) -> None:
    settings = Settings(
        model=tiny_checkpoint,
        more_models=(f"base={base_checkpoint}", f"design={design_checkpoint}"),
        device="cpu",
        cpu_threads=1,
        codec_threads=1,
        slots=1,
        fastest_way="eager",
    )
    loader = EngineLoader(settings)
    lifecycle = Lifecycle(
        [
            ModelSource(name, partial(loader.load, path), at_start=name != "design")
            for name, path in settings.models
        ],
        limits=Limits(1),
        unload_after_s=3,
    )

    def states() -> list[str]:
        return [model.state for model in lifecycle.models.values()]

    def speak(model: str | None, request: SpeechRequest) -> int:
        speech = lifecycle.speak(request, output=Output("pcm"), timeout_s=120, model=model)
        return len(b"".join(speech))

    lifecycle.start()
    # The base model's own first sentence needs a recording, and had one.
    wait_for(lambda: lifecycle.status.state in ("ready", "broken"), "the end of loading", 180)
    assert (lifecycle.status.state, states()) == ("ready", ["ready", "ready", "unloaded"])
    described = SpeechRequest("Hello there.", instructions="A calm voice.", seed=1, max_frames=5)
    assert speak("design", described) == 5 * 2 * 1920
    assert states()[2] == "ready"
    wait_for(lambda: states() == ["unloaded"] * 3, "all are put aside", 20)
    began = time.monotonic()
    assert speak(None, SpeechRequest("Hello there.", "ryan", seed=1, max_frames=5)) == 5 * 2 * 1920
    print(f"loaded again and spoken in {time.monotonic() - began:.1f} s")
    assert states()[1:] == ["unloaded"] * 2
