"""The settings' engine for a checkpoint, built for the engine's process and for ``compile`` alike."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DeviceFault
from ..loaded_engine import Loaded, SelfCheck

if TYPE_CHECKING:
    from ..checkpoints.load import LoadedModel
    from ..config import Settings
    from ..engine.frame import FrameModel
    from ..pipeline import SharedCodec


#: Where the settings leave it open. On a CPU every batch size costs compilation, and more than two voices share
#: cores that are too slow for one.
_SLOTS_ON_GPU, _SLOTS_ON_CPU = 8, 2


def most_slots(settings: Settings) -> int:
    """How many requests a model speaks at a time at most; the device is known only when it is loaded."""
    return (settings.slots or _SLOTS_ON_GPU) if settings.engine == "frames" else 1


class EngineLoader:
    """Loads the models of one process; they share the codec."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._codec: SharedCodec | None = None
        # Models that are loaded by their first requests may be asked for at once.
        self._loading = threading.Lock()
        # Before torch is imported. What the unit or a person has set stays.
        for name, folder in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton")):
            os.environ.setdefault(name, str(settings.compile_cache_directory / folder))

    def load(self, path: Path, on_fault: Callable[[DeviceFault], None]) -> Loaded:
        """Build the engine of the checkpoint at ``path``; seconds to minutes, one at a time.

        ``on_fault`` is told when the device is lost later. Raises CheckpointError, ConfigurationError,
        SelfCheckFailed and EngineError.
        """
        with self._loading:
            return self._load(path, on_fault)

    def _load(self, path: Path, on_fault: Callable[[DeviceFault], None]) -> Loaded:
        # torch takes seconds to import: on the loader's thread, while the server already answers.
        from ..checkpoints.load import load
        from ..engine.reference import ReferenceEngine
        from ..pipeline.reference import ReferencePipeline

        settings = self._settings
        model = load(
            path,
            device=settings.device,
            dtype=settings.dtype,
            codec_device=settings.codec_device,
            cpu_threads=settings.cpu_threads,
        )
        if settings.engine == "reference":
            return Loaded(ReferencePipeline(ReferenceEngine(model)), self._check(model))
        from ..pipeline import streaming_engine

        checked = SelfCheck()

        def check(frames: FrameModel) -> None:
            nonlocal checked
            checked = self._check(model, frames)

        codec = self._shared_codec(on_fault)
        engine = streaming_engine(
            model,
            codec,
            slots=settings.slots or (_SLOTS_ON_CPU if model.device.type == "cpu" else _SLOTS_ON_GPU),
            positions=settings.positions,
            weights=settings.weights,
            fastest=None if settings.fastest_way == "auto" else settings.fastest_way,
            frame_limit_s=settings.frame_deadline_s,
            on_device_fault=on_fault,
            check=check,
            kernels=None if settings.fastest_way == "eager" else settings.compile_cache_directory,
        )
        return Loaded(
            engine,
            checked,
            codec_way=codec.way,
            codec_reason=codec.reason,
            prompt_way=engine.prompt_way,
        )

    def _shared_codec(self, on_fault: Callable[[DeviceFault], None]) -> SharedCodec:
        from ..pipeline import SharedCodec

        if self._codec is None:
            # Every model's faults end the process, so whichever hears of the codec's will do.
            self._codec = SharedCodec(
                dtype=self._settings.codec_dtype,
                threads=self._settings.codec_threads,
                compile=self._settings.fastest_way != "eager",
                kernels=self._settings.compile_cache_directory,
                on_device_fault=on_fault,
            )
        return self._codec

    def _check(self, model: LoadedModel, frames: FrameModel | None = None) -> SelfCheck:
        """What the device computes against the CPU in float32: the frame engine's model, or upstream's."""
        from ..engine import selfcheck

        if self._settings.self_check == "off":
            return SelfCheck()
        report = selfcheck.check(model, frames)
        return SelfCheck("passed", report.max_error, report.tolerance)
