"""``POST /v1/audio/speech``: sound leaves while it is made."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Blueprint, Response, abort, current_app, g, request

from ..config import Settings
from ..errors import Cancelled, InvalidRequest, TTSError, shown
from ..lifecycle import Lifecycle
from ..speech import text
from ..speech.formats import Output
from ..speech.request import FRAMES_A_SECOND, SpeechRequest
from ..synthesis import Speech
from . import schemas, voice_field
from .aliases import Aliases
from .metrics import Metrics
from .streams import BrokenOff, Connection, client_is_gone, connection, takes_chunks, takes_trailers

logger = logging.getLogger(__name__)


def blueprint(lifecycle: Lifecycle, settings: Settings, metrics: Metrics) -> Blueprint:
    """The endpoint over the models of one process."""
    routes = Blueprint("speech", __name__)
    aliases = Aliases(settings)

    @routes.post("/v1/audio/speech")
    def speak() -> Response:
        if request.mimetype != "application/json":
            abort(415, f"`Content-Type` is {shown(request.mimetype)}: send `application/json`")
        body, ignored = schemas.parse(request.get_data())
        output = Output(
            body.response_format,
            speed=body.speed,
            marked=settings.mark_ai_generated,
            # HTTP/1.0 knows no chunks: there the end of an answer without a length looks like a cut.
            whole=not takes_chunks(),
        )
        model = lifecycle.model(aliases.model(body.model, lifecycle.models))
        voice = voice_field.read(body.voice, max_bytes=settings.max_body_bytes)
        wanted = SpeechRequest(
            text=text.clean(body.input, max_chars=settings.max_input_chars),
            voice=aliases.voice(voice.name, model.description.speakers if model.description else ()),
            clone=voice.recording,
            language=body.language,
            instructions=_instructions(body.instructions, settings.max_input_chars),
            seed=secrets.randbits(31) if body.seed is None else body.seed,
            max_frames=int(settings.max_audio_seconds * FRAMES_A_SECOND) or 1,
        )
        deadline = time.monotonic() + settings.request_timeout_s
        with metrics.refusals(model.name), _named_as_sent():
            speech = lifecycle.speak(
                wanted,
                model=model.name,
                output=output,
                timeout_s=settings.request_timeout_s,
                gone=client_is_gone(),
            )
        client = connection()
        answer = _Answer(speech, wanted, client, model.name, metrics)
        try:
            client.watch(speech.cancel, deadline)
            # The status line waits for the first sound: what fails before it is told by its true status.
            response = answer.whole() if output.whole else answer.streamed()
        except BaseException:
            answer.close()
            raise
        response.mimetype = output.content_type
        response.headers["X-Seed"] = str(wanted.seed)
        if ignored:
            response.headers["Warning"] = f'299 - "ignored: {", ".join(ignored)}"'
        # nginx and its kin would keep the sound until there is more of it.
        response.headers["X-Accel-Buffering"] = "no"
        return response

    return routes


@contextmanager
def _named_as_sent() -> Iterator[None]:
    """What the engine calls ``clone`` is part of the field ``voice`` here."""
    try:
        yield
    except InvalidRequest as error:
        error.param = "voice" if error.param == "clone" else error.param
        raise


class _Answer:
    """The bytes of one answer; whoever sends them closes it, and then it is logged and counted."""

    def __init__(
        self, speech: Speech, wanted: SpeechRequest, client: Connection, model: str, metrics: Metrics
    ) -> None:
        self._speech = speech
        self._wanted = wanted
        self._client = client
        self._model = model
        self._metrics = metrics
        # Both are gone with the request's context when the sound is sent.
        self._request_id, self._key_name = g.request_id, g.key_name
        self._first = b""
        self._trailers = takes_trailers()
        self._closed = False

    def streamed(self) -> Response:
        """An answer without a length. Waits for the first sound and raises what happens before it."""
        self._first = next(self._speech, b"")
        if not self._first:
            return self.whole()
        response = current_app.response_class(self, direct_passthrough=True)
        if self._trailers:
            response.headers["Trailer"] = ", ".join(self._told_at_the_end())
        return response

    def whole(self) -> Response:
        """An answer with a length."""
        content = b"".join(self._speech)
        response = current_app.response_class(content)
        response.headers.update(self._told_at_the_end())
        self.close()
        return response

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield self._first
            yield from self._speech
        except Cancelled as error:
            raise BrokenOff from error
        except TTSError as error:
            logger.error(
                "%s broke off after %.2f s: %s", self._request_id, self._speech.audio_s, error.message
            )
            raise BrokenOff from error
        except Exception as error:
            logger.exception("%s failed unexpectedly", self._request_id)
            raise BrokenOff from error
        if self._trailers:
            self._client.trailers = self._told_at_the_end()

    def close(self) -> None:
        """Free what the request holds, and tell the journal and the metrics how it ended."""
        if self._closed:
            return
        self._closed = True
        speech, wanted = self._speech, self._wanted
        speech.close()
        self._metrics.ended(self._model, speech)
        logger.info(
            "%s key=%s model=%s voice=%s language=%s characters=%d audio=%.2fs queue=%.2fs first=%s "
            "compute=%.2fs finish=%s",
            self._request_id,
            self._key_name,
            self._model,
            wanted.voice if wanted.clone is None else "(recording)",
            wanted.language,
            len(wanted.text),
            speech.audio_s,
            speech.queue_s,
            "-" if speech.first_audio_s is None else f"{speech.first_audio_s:.3f}s",
            speech.compute_s,
            speech.finish,
        )

    def _told_at_the_end(self) -> dict[str, str]:
        return {
            "X-Finish-Reason": str(self._speech.finish),
            "X-Audio-Seconds": f"{self._speech.audio_s:.3f}",
            "X-Compute-Seconds": f"{self._speech.compute_s:.3f}",
        }


def _instructions(given: str | None, max_chars: int) -> str | None:
    """Empty instructions are none: clients send the field whether it is filled in or not."""
    if given is None or not given.strip():
        return None
    return text.clean(given, max_chars=max_chars, param="instructions")
