"""The answer to one request for speech: its bytes, its end, and what is told of it."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from typing import Any

from flask import Response, current_app

from .. import journal
from ..errors import Cancelled, TTSError
from ..speech.request import FRAMES_A_SECOND
from ..synthesis import Speech
from . import error_responses
from .asking import Asked
from .metrics import Metrics
from .records import Record, Records
from .streams import BrokenOff, Connection, takes_trailers

logger = logging.getLogger(__name__)


class Answer:
    """The bytes of one answer; whoever sends them closes it, and then it is logged and counted."""

    def __init__(
        self,
        speech: Speech,
        asked: Asked,
        *,
        request_id: str,
        key_name: str,
        metrics: Metrics,
        records: Records,
    ) -> None:
        self._speech = speech
        self._asked = asked
        self._request_id, self._key_name = request_id, key_name
        self._metrics = metrics
        self._first = b""
        self._closed = False
        self._record = Record(request_id, key_name, self.facts)
        records.keep(self._record)

    def streamed(self, client: Connection) -> Response:
        """An answer without a length. Waits for the first sound and raises what happens before it."""
        self._first = next(self._speech, b"")
        if not self._first:
            return self.whole()
        trailers = takes_trailers()
        response = current_app.response_class(self._sound(client if trailers else None))
        response.call_on_close(self.close)
        response.mimetype = self._asked.output.content_type
        if trailers:
            response.headers["Trailer"] = ", ".join(self._told_at_the_end())
        return response

    def events(self) -> Response:
        """The same as server-sent events: sound in base64, then the end, or an error."""
        self._first = next(self._speech, b"")
        response = current_app.response_class(self._events())
        response.mimetype = "text/event-stream"
        response.call_on_close(self.close)
        return response

    def whole(self) -> Response:
        """An answer with a length."""
        response = current_app.response_class(self.content())
        response.mimetype = self._asked.output.content_type
        response.headers.update(self._told_at_the_end())
        return response

    def content(self) -> bytes:
        """All of the sound, when it is made; closes."""
        try:
            return b"".join(self._speech)
        finally:
            self.close()

    def close(self) -> None:
        """Free what the request holds, and tell the journal and the metrics how it ended."""
        if self._closed:
            return
        self._closed = True
        speech, request = self._speech, self._asked.request
        speech.close()
        facts = self.facts()
        # Nothing of the request is kept but this.
        self._record.facts = lambda: facts
        self._metrics.ended(self._asked.model, speech)
        journal.request(
            request_id=self._request_id,
            key_name=self._key_name,
            model=self._asked.model,
            voice=self._asked.voice,
            language=request.language,
            characters=request.characters,
            audio_s=speech.audio_s,
            queue_s=speech.queue_s,
            first_audio_s=speech.first_audio_s,
            compute_s=speech.compute_s,
            finish=str(speech.finish),
            text="\n".join((request.text, *request.more_parts)) if self._asked.log_text else None,
        )

    def _pieces(self) -> Iterator[bytes]:
        """All of the sound. Raises BrokenOff for what nobody reads or expected, else the TTSError."""
        try:
            yield self._first
            yield from self._speech
        except Cancelled as error:
            raise BrokenOff from error
        except TTSError as error:
            logger.error(
                "%s broke off after %.2f s: %s", self._request_id, self._speech.audio_s, error.message
            )
            raise
        except Exception as error:
            logger.exception("%s failed unexpectedly", self._request_id)
            raise BrokenOff from error

    def _sound(self, tell: Connection | None) -> Iterator[bytes]:
        """The sound, and then what is known at its end to ``tell``, where that takes it."""
        try:
            yield from self._pieces()
        except TTSError as error:
            raise BrokenOff from error
        if tell is not None:
            tell.trailers = self._told_at_the_end()

    def _events(self) -> Iterator[bytes]:
        try:
            for piece in self._pieces():
                if piece:
                    yield _event("speech.audio.delta", audio=base64.b64encode(piece).decode())
        except TTSError as error:
            yield _event("error", **error_responses.described(error))
            raise BrokenOff from error
        # A talker's frame is what OpenAI counts as a token of sound.
        spoken = round(self._speech.spoken_s * FRAMES_A_SECOND)
        read = self._speech.text_tokens
        usage = {"input_tokens": read, "output_tokens": spoken, "total_tokens": read + spoken}
        yield _event("speech.audio.done", usage=usage, **self.facts())

    def facts(self) -> dict[str, Any]:
        """What a client is told of its request, in the middle or at the end."""
        speech, request = self._speech, self._asked.request
        return {
            "request_id": self._request_id,
            "state": "speaking" if speech.finish is None else "finished",
            "finish_reason": speech.finish,
            "model": self._asked.model,
            "voice": self._asked.voice,
            "seed": request.seed,
            "characters": request.characters,
            "parts": 1 + len(request.more_parts),
            "part": speech.part,
            "part_starts": [round(start, 3) for start in speech.part_starts],
            "audio_seconds": round(speech.audio_s, 3),
            "queue_seconds": round(speech.queue_s, 3),
            "first_audio_seconds": speech.first_audio_s and round(speech.first_audio_s, 3),
            "compute_seconds": round(speech.compute_s, 3),
        }

    def _told_at_the_end(self) -> dict[str, str]:
        return {
            "X-Finish-Reason": str(self._speech.finish),
            "X-Audio-Seconds": f"{self._speech.audio_s:.3f}",
            "X-Compute-Seconds": f"{self._speech.compute_s:.3f}",
        }


def _event(kind: str, **content: Any) -> bytes:
    return f"data: {json.dumps({'type': kind, **content})}\n\n".encode()
