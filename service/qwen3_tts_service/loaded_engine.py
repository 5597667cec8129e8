"""What loading a checkpoint gives: an engine, and what is known of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from .engine_stats import EngineStats
from .errors import DeviceFault
from .narration import Engine


@dataclass(frozen=True)
class SelfCheck:
    """The comparison of the device with the CPU, as ``/ready`` shows it."""

    status: Literal["passed", "skipped"] = "skipped"
    #: The error that was measured and the largest that passes; None where nothing was compared.
    max_error: float | None = None
    tolerance: float | None = None


class LoadedEngine(Engine, Protocol):
    """An engine and what it says about its checkpoint."""

    @property
    def speakers(self) -> tuple[str, ...]: ...

    @property
    def languages(self) -> tuple[str, ...]: ...

    @property
    def model_type(self) -> str: ...

    @property
    def model_size(self) -> str: ...

    @property
    def synthetic(self) -> bool: ...

    @property
    def device(self) -> object: ...

    @property
    def dtype(self) -> object: ...

    def ways(self) -> Mapping[int, str]:
        """Slots in a batch -> how such a frame is computed: ``captured``, ``compiled`` or ``eager``."""

    def reasons(self) -> Mapping[int, str]:
        """Slots in a batch -> why such a frame is not computed in the device's fastest way, where it is not.

        0: why prompts are not read so.
        """

    def stats(self) -> EngineStats | None:
        """Counts and times; None where the engine is no frame loop."""

    def close(self) -> object:
        """End the engine's threads and let its memory go. Nothing is being spoken."""


@dataclass(frozen=True)
class Loaded:
    """What a loader builds: an engine whose device was compared with the CPU where that can be."""

    engine: LoadedEngine
    self_check: SelfCheck = SelfCheck()
    #: How the codec computes, ``captured``, ``compiled`` or ``eager``, and why not faster; empty where it is
    #: upstream's.
    codec_way: str = ""
    codec_reason: str = ""
    #: How prompts are read, ``captured`` or ``eager``; empty where upstream reads them. The engine's reasons say why
    #: not faster.
    prompt_way: str = ""


#: Builds an engine, slowly. It is given what to tell when the device is lost later.
Loader = Callable[[Callable[[DeviceFault], None]], Loaded]


@dataclass(frozen=True)
class Kind:
    """What a checkpoint is for, in the words of its ``config.json``; known before it is loaded."""

    #: ``custom_voice``, ``base`` or ``voice_design``.
    model_type: str
    #: Such as ``0b6`` or ``1b7``: a voice that was taken by one fits others of that size.
    model_size: str
    speakers: tuple[str, ...]


@dataclass(frozen=True)
class Description(Kind):
    """What a checkpoint offers; known from its first load on."""

    languages: tuple[str, ...]
    synthetic: bool
    device: str
    dtype: str


def described(engine: LoadedEngine) -> Description:
    """What ``engine`` says of itself."""
    return Description(
        model_type=engine.model_type,
        model_size=engine.model_size,
        speakers=engine.speakers,
        languages=engine.languages,
        synthetic=engine.synthetic,
        device=str(engine.device),
        dtype=str(engine.dtype).removeprefix("torch."),
    )
