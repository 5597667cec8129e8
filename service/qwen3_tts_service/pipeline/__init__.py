"""The way of one request through a loaded model: prompt, frames, sound; and the loading that joins them."""

from .loading import streaming_engine
from .reference import ReferencePipeline
from .shared_codec import SharedCodec
from .streaming import StreamingEngine
from .utterance import Timeline, Utterance

__all__ = [
    "ReferencePipeline",
    "SharedCodec",
    "StreamingEngine",
    "Timeline",
    "Utterance",
    "streaming_engine",
]
