"""The settings' engine for a checkpoint, built for ``serve`` and ``compile`` alike."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DeviceFault
from ..served_model import Loaded, SelfCheck

if TYPE_CHECKING:
    from ..checkpoints.load import LoadedModel
    from ..config import Settings
    from ..pipeline import SharedCodec


class EngineLoader:
    """Loads the models of one process; they share the codec."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._codec: SharedCodec | None = None
        # Before torch is imported. What the unit or a person has set stays.
        for name, folder in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton")):
            os.environ.setdefault(name, str(settings.compile_cache_directory / folder))

    @property
    def slots(self) -> int:
        """How many requests a model speaks at a time."""
        return self._settings.slots if self._settings.engine == "frames" else 1

    def load(self, path: Path, on_fault: Callable[[DeviceFault], None]) -> Loaded:
        """Build the engine of the checkpoint at ``path``; seconds to minutes, one call at a time.

        ``on_fault`` is told when the device is lost later. Raises CheckpointError, ConfigurationError,
        SelfCheckFailed and EngineError.
        """
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
        checked = self._check(model)
        if settings.engine == "reference":
            return Loaded(ReferencePipeline(ReferenceEngine(model)), checked)
        from ..pipeline import streaming_engine

        engine = streaming_engine(
            model,
            self._shared_codec(on_fault),
            slots=settings.slots,
            positions=settings.positions,
            on_device_fault=on_fault,
        )
        return Loaded(engine, checked)

    def _shared_codec(self, on_fault: Callable[[DeviceFault], None]) -> SharedCodec:
        from ..pipeline import SharedCodec

        if self._codec is None:
            # Every model's faults end the process, so whichever hears of the codec's will do.
            self._codec = SharedCodec(
                dtype=self._settings.codec_dtype,
                threads=self._settings.codec_threads,
                on_device_fault=on_fault,
            )
        return self._codec

    def _check(self, model: LoadedModel) -> SelfCheck:
        """The loaded weights on their device against the CPU, which is what others are compared with."""
        from ..engine import selfcheck

        if self._settings.self_check == "off" or model.device.type == "cpu":
            return SelfCheck()
        report = selfcheck.check(model)
        return SelfCheck("passed", report.max_error, report.tolerance)
