"""ffmpeg's libraries (PyAV), told to work in the thread that calls them.

By themselves they start a thread for each core with every filter graph, and PyAV puts one into every encoder:
at 64 answers on 16 cores a thousand threads that never have anything to do. PyAV has no switch for those.
"""

from __future__ import annotations

import ctypes

import av
import av.codec.context

__all__ = ["av"]

# A symbol is looked for in what the extension is linked with, too: libavutil, whose documented function this is.
ctypes.CDLL(av.codec.context.__file__).av_cpu_force_count(1)
