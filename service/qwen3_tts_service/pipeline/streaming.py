"""Prompt, frame loop and codec joined: a request goes in, sound comes out while it is still being spoken."""

from __future__ import annotations

import gc
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ..checkpoints.load import LoadedModel
from ..checkpoints.memory import held_bytes
from ..codec.worker import CodecStats, CodecWorker
from ..engine.budget import frame_budget
from ..engine.jobs import FrameRequest
from ..engine.prompt import PromptBuilder
from ..engine.scheduler import Scheduler, SchedulerStats
from ..speech.listening import AHEAD_FRAMES, Listener
from ..speech.request import CloneReference, SpeechRequest, VoicePrompt
from .speaking import Speaking, Utterance

logger = logging.getLogger(__name__)

#: Of a longer text its beginning is looked at first: where that alone is too long, the rest need not be tokenized,
#: which would take the interpreter from the frame loop for as long as the client likes.
_LOOKED_AT_FIRST = 16_384


@dataclass(frozen=True)
class PipelineStats:
    """The two stages at one moment. ``memory_bytes``: see :func:`..checkpoints.memory.held_bytes`."""

    frames: SchedulerStats
    codec: CodecStats
    memory_bytes: int


class StreamingEngine:
    """Speaks up to ``slots`` requests at a time on one loaded checkpoint; the codec may be shared with others.

    Attributes as of :class:`..engine.reference.ReferenceEngine`. ``ways()`` tells how frames are computed, by
    batch size, and ``reasons()`` why not faster, where they are not; ``prompt_way`` how prompts are read.
    ``on_close`` gives back what was built for this engine alone.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        prompts: PromptBuilder,
        scheduler: Scheduler,
        codec: CodecWorker,
        slots: int,
        ways: Callable[[], Mapping[int, str]],
        reasons: Callable[[], Mapping[int, str]],
        prompt_way: str,
        on_close: Callable[[], None] = lambda: None,
        ahead_frames: int = AHEAD_FRAMES,
    ) -> None:
        self.model_type = model.checkpoint.model_type
        self.model_size = model.checkpoint.model_size
        self.synthetic = model.checkpoint.synthetic
        self.device, self.dtype = model.device, model.dtype
        self.speakers, self.languages = prompts.speakers, prompts.languages
        self.sample_rate = int(model.upstream.model.speech_tokenizer.get_output_sample_rate())
        self.slots = slots
        self.ways, self.reasons, self.prompt_way = ways, reasons, prompt_way
        self._prompts = prompts
        self._scheduler = scheduler
        self._codec = codec
        self._on_close = on_close
        self._ahead_frames = ahead_frames

    def check(self, request: SpeechRequest) -> None:
        """Raise the InvalidRequest that :meth:`open` would raise, without computing anything."""
        if len(request.text) > _LOOKED_AT_FIRST:
            self._prompts.check(replace(request, text=request.text[:_LOOKED_AT_FIRST]))
        self._prompts.check(request)

    def encode_reference(self, recording: CloneReference) -> VoicePrompt:
        """Listen to a recording on the calling thread, so that many requests can use it.

        Raises InvalidValue for a recording that is of no use, NotSupportedByModel on a checkpoint that does
        not clone.
        """
        return self._prompts.encode_reference(recording)

    def start(self, request: SpeechRequest, listener: Listener, *, deadline: float) -> Speaking:
        """Begin to speak to ``listener``. Builds the prompt on the calling thread, then returns.

        ``deadline`` is a time of ``time.monotonic``. ``request.max_frames`` is the cap, the text's length may
        set a lower one. Raises one of the InvalidRequest family, QueueFull, Draining and DeviceFault.
        """
        request = request.drawn(self._prompts.sampling(request))
        prompt = self._prompts.build(request)
        speaking = Speaking(
            self._codec,
            listener,
            context=prompt.context,
            ahead=self._ahead_frames,
            text_tokens=prompt.text_tokens,
        )
        frames = FrameRequest(
            prompt=prompt,
            sampling=self._prompts.sampling(request),
            seed=secrets.randbits(63) if request.seed is None else request.seed,
            max_frames=frame_budget(prompt.text_tokens, cap=request.max_frames),
            deadline=deadline,
        )
        speaking.timeline.queued = time.monotonic()
        try:
            speaking.submitted(self._scheduler.submit(frames, speaking))
        except BaseException:
            speaking.cancel()
            raise
        return speaking

    def open(
        self, request: SpeechRequest, *, deadline: float, cancelled: Callable[[], bool] = lambda: False
    ) -> Utterance:
        """As :meth:`start`, for a thread of this process that iterates for the sound.

        ``cancelled`` says that nobody listens any more: it is asked before every frame, on the engine's thread,
        and must not block.
        """
        return Utterance(
            lambda listener: self.start(request, listener, deadline=deadline),
            deadline=deadline,
            cancelled=cancelled,
        )

    def stats(self) -> PipelineStats:
        """Counts and times of both stages, for metrics. The codec's are those of every model that shares it."""
        return PipelineStats(self._scheduler.stats(), self._codec.stats(), held_bytes(self.device))

    def close(self, timeout_s: float = 10.0) -> bool:
        """Finish what is being spoken, end the frame loop, let the memory go; nothing may be asked afterwards.

        False: something had to be given up after ``timeout_s`` seconds.
        """
        drained = self._scheduler.stop(timeout_s)
        # Weights are freed when nothing refers to them, and only then the device's memory can be given back.
        self.ways = self.reasons = dict
        del self._scheduler, self._prompts, self._codec
        gc.collect()
        self._on_close()
        return drained
