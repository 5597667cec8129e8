"""The way of one request through a loaded model: prompt, frames, sound; and the loading that joins them."""

from .loading import streaming_engine
from .reference import ReferencePipeline
from .shared_codec import SharedCodec
from .speaking import Speaking, Timeline, Utterance
from .streaming import StreamingEngine

__all__ = [
    "ReferencePipeline",
    "SharedCodec",
    "Speaking",
    "StreamingEngine",
    "Timeline",
    "Utterance",
    "streaming_engine",
]
