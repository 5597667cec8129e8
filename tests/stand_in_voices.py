"""Stand-in engines of the other two kinds: one that takes voices from recordings, one that makes them of words."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from werkzeug.datastructures import FileStorage
from werkzeug.test import encode_multipart

from qwen3_tts_service.errors import NotSupportedByModel
from qwen3_tts_service.lifecycle import ModelSource
from qwen3_tts_service.loaded_engine import Kind, Loaded
from qwen3_tts_service.speech.request import CloneReference, SpeechRequest, VoicePrompt
from server_process import Answer
from stand_in_engine import RATE, TONE, Service, StandInEngine

FRAME = 1920


class StandInBase(StandInEngine):
    """Its sound tells whose voice it has: samples of the recording, which are kept in the embedding.

    ``listened`` counts the recordings; ``with_prompts`` are the voices that were spoken with, as they came.
    """

    speakers = ()
    model_type = "base"

    def __init__(self, slots: int = 1, size: str = "tiny") -> None:
        super().__init__(slots)
        self.model_size = size
        self.listened = 0
        self.with_prompts: list[VoicePrompt] = []
        self.listening_fault: Exception | None = None

    def check(self, request: SpeechRequest) -> None:
        if request.clone is None:
            raise NotSupportedByModel("this is a base checkpoint: it only clones", param="model")

    def encode_reference(self, recording: CloneReference) -> VoicePrompt:
        if self.listening_fault is not None:
            raise self.listening_fault
        self.listened += 1
        embedding = np.ascontiguousarray(recording.waveform[:1024], np.float32)
        if recording.text is None:
            return VoicePrompt(embedding)
        frames = -(-len(recording.waveform) // FRAME)
        codes = np.arange(frames * 16).reshape(frames, 16) % 2048
        return VoicePrompt(embedding, codes, recording.text)

    def pieces(self, request: SpeechRequest) -> list[npt.NDArray[np.float32]]:
        voice = request.clone
        assert voice is not None
        if isinstance(voice, CloneReference):
            voice = self.encode_reference(voice)
        else:
            self.with_prompts.append(voice)
        heard = len(voice.codes) if voice.codes is not None else 0
        return [voice.speaker_embedding, np.full(heard, 0.5, np.float32)] * self.repeat


class StandInDesign(StandInEngine):
    """Speaks two seconds; ``said`` is the newest request."""

    level = 1.0
    speakers = ()
    model_type = "voice_design"

    def check(self, request: SpeechRequest) -> None:
        if not request.instructions:
            raise NotSupportedByModel("describe the voice", param="instructions")

    def pieces(self, request: SpeechRequest) -> list[npt.NDArray[np.float32]]:
        self.said = request
        return [np.tile(TONE, 20) * np.float32(self.level)]


def source(name: str, engine: StandInEngine, *, at_start: bool = True, told: bool = True) -> ModelSource:
    """``told``: what it is is known before it is loaded, as it is by ``config.json``."""
    kind = Kind(engine.model_type, engine.model_size, tuple(engine.speakers)) if told else None
    return ModelSource(name, lambda on_fault: Loaded(engine), at_start=at_start, kind=kind)


def recording(seconds: float = 2.0, *, seed: int = 0, kind: str = "WAV", level: float = 0.1) -> bytes:
    """Noise is as good as speech to those who judge recordings."""
    samples = np.random.default_rng(seed).normal(0, level, int(seconds * RATE)).clip(-1, 1)
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=kind)
    return file.getvalue()


def sent_form(content: bytes | None = None, /, **fields: Any) -> tuple[str, bytes]:
    """What saves a voice, as content type and body, unless ``fields`` say otherwise; None leaves one out."""
    form: dict[str, Any] = {"name": "Ada", "consent": "true", **fields}
    form["audio"] = FileStorage(io.BytesIO(recording() if content is None else content), "voice.wav")
    boundary, body = encode_multipart({name: value for name, value in form.items() if value is not None})
    return f"multipart/form-data; boundary={boundary}", body


def send_form(running: Service, content: bytes | None = None, /, **fields: Any) -> Answer:
    """``POST /v1/audio/voices`` with that form."""
    content_type, body = sent_form(content, **fields)
    return running.ask("POST", "/v1/audio/voices", body, Content_Type=content_type)


def saved(running: Service, content: bytes | None = None, /, **fields: Any) -> dict[str, Any]:
    answer = send_form(running, content, **fields)
    assert answer.status == 201, answer.content
    voice: dict[str, Any] = answer.json
    return voice
