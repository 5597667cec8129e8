"""From a loaded checkpoint to an engine that streams."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from pathlib import Path

from ..checkpoints.load import LoadedModel
from ..checkpoints.memory import GIB, give_back, held_bytes
from ..engine.frame import FrameModel
from ..engine.graphs import FrameRunner, Way
from ..engine.linear import Weights
from ..engine.prompt import PromptBuilder
from ..engine.scheduler import FRAME_LIMIT_S, Scheduler
from ..errors import DeviceFault
from ..speech.listening import AHEAD_FRAMES
from .shared_codec import SharedCodec
from .streaming import StreamingEngine

logger = logging.getLogger(__name__)


def streaming_engine(
    model: LoadedModel,
    codec: SharedCodec,
    *,
    slots: int,
    positions: int = 2048,
    weights: Weights = "bf16",
    frame_limit_s: float = FRAME_LIMIT_S,
    fastest: Way | None = None,
    ahead_frames: int = AHEAD_FRAMES,
    on_device_fault: Callable[[DeviceFault], None] = lambda error: None,
    check: Callable[[FrameModel], None] = lambda frames: None,
    kernels: Path | None = None,
) -> StreamingEngine:
    """Build everything around ``model``, start it, and say in the journal what it takes of the memory.

    That is what the process holds on the device now and did not before the checkpoint was read. Where the codec
    computes there too, the first model has it in its figure, as the others share it.

    Takes minutes where compile caches are cold. ``slots`` requests are spoken at a time, each with
    ``positions`` for prompt and frames together. ``weights`` as of :class:`..engine.frame.FrameModel`,
    ``fastest`` as of :class:`..engine.graphs.FrameRunner`. A frame that takes longer than ``frame_limit_s``
    seconds means that the device hangs. ``model`` is used up: its layers go over into the engine.
    ``on_device_fault`` is told once, on a thread of the engine, that nothing can be computed any more. ``check``
    is given the engine's model before anything faster is made of it; what it raises ends the loading. ``kernels`` as
    of :class:`..engine.frame.FrameModel`. Raises CheckpointError and EngineError.
    """
    # Before upstream's layers go over into the engine's.
    weights_bytes = sum(parameter.nbytes for parameter in model.upstream.model.parameters())
    prompts = PromptBuilder(model)
    frame_model = FrameModel(
        model, slots=slots, positions=positions, weights=weights, release_upstream=True, kernels=kernels
    )
    check(frame_model)
    runner = FrameRunner(frame_model, fastest=fastest)
    # What only building and verifying needed: gigabytes on a GPU.
    give_back(model.device)
    worker = codec.take(model)
    scheduler = Scheduler(
        runner, eos=frame_model.eos, on_device_fault=on_device_fault, frame_limit_s=frame_limit_s
    )
    scheduler.start()

    device = model.device

    def close() -> None:
        codec.give_back()
        give_back(device)

    engine = StreamingEngine(
        model,
        prompts=prompts,
        scheduler=scheduler,
        codec=worker,
        slots=slots,
        ways=runner.ways,
        reasons=runner.reasons,
        prompt_way="eager" if frame_model.prefill_fn is None else "captured",
        on_close=close,
        ahead_frames=ahead_frames,
    )
    # What neither prompts nor engine have taken, such as the encoder of recordings where voices are not cloned.
    del model.upstream.model
    gc.collect()
    give_back(device)
    logger.info(
        "%s: %.2f GiB on %s (weights as loaded %.2f, keys and values %.2f) with %d slots of %d positions",
        model.checkpoint.path,
        (held_bytes(device) - model.held_before) / GIB,
        device,
        weights_bytes / GIB,
        sum(stack.cache.whole.nbytes for stack in (frame_model.talker, frame_model.predictor)) / GIB,
        slots,
        positions,
    )
    return engine
