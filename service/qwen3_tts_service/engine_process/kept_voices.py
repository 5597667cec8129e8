"""The voices that are spoken with again and again, each as one object.

A voice comes from the server's process with every request, as a copy. What the codec has heard of a voice it finds
by the voice's own array (``codec/contexts.py``), so the copies have to become that array again.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict

import numpy as np

from ..speech.request import VoicePrompt

#: As many as are kept. With each goes a state of the codec, some megabytes.
MOST = 32


class KeptVoices:
    """The newest :data:`MOST` voices by their content. Every method may be called from any thread.

    A voice that was forgotten is not kept again for ``forgotten_s`` seconds: requests that were accepted before
    may still be on their way.
    """

    def __init__(self, *, forgotten_s: float) -> None:
        self._forgotten_s = forgotten_s
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, VoicePrompt] = OrderedDict()
        self._forgotten: dict[bytes, float] = {}

    def same(self, voice: VoicePrompt) -> VoicePrompt:
        """The object that came first with this content."""
        digest = _digest(voice)
        with self._lock:
            if self._is_forgotten(digest):
                return voice
            kept = self._kept.setdefault(digest, voice)
            self._kept.move_to_end(digest)
            if len(self._kept) > MOST:
                self._kept.popitem(last=False)
            return kept

    def forget(self, voice: VoicePrompt) -> None:
        """Keep it no longer. What is being spoken with it goes on."""
        digest = _digest(voice)
        with self._lock:
            self._kept.pop(digest, None)
            self._forgotten[digest] = time.monotonic()

    def clear(self) -> None:
        """Keep none."""
        with self._lock:
            self._kept.clear()

    def _is_forgotten(self, digest: bytes) -> bool:
        oldest = time.monotonic() - self._forgotten_s
        self._forgotten = {known: at for known, at in self._forgotten.items() if at >= oldest}
        return digest in self._forgotten


def _digest(voice: VoicePrompt) -> bytes:
    digest = hashlib.sha256()
    for array in (voice.speaker_embedding, voice.codes):
        if array is not None:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    digest.update(repr(voice.text).encode("utf-8", "backslashreplace"))
    return digest.digest()
