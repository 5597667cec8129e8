"""One request for speech, checked and in the checkpoint's own words."""

from __future__ import annotations

from dataclasses import dataclass

#: One frame of codes is 80 ms of sound: 1920 samples at 24 kHz.
FRAMES_A_SECOND = 12.5
SAMPLES_A_FRAME = 1920


@dataclass(frozen=True)
class SpeechRequest:
    """What the engine needs to know to speak one text.

    ``voice`` and ``language`` are names of the loaded checkpoint in its own spelling; None leaves the choice
    to the checkpoint (``language``) or says that it has no fixed speakers (``voice``). The same ``seed``
    gives the same speech on the same machine; None draws a fresh one (greedy decoding makes real checkpoints
    loop). ``max_frames`` caps the length in frames of 80 ms.
    """

    text: str
    voice: str | None = None
    language: str | None = None
    instructions: str | None = None
    seed: int | None = None
    max_frames: int = 2048
