"""``POST /v1/audio/speech``."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable

from flask import Blueprint, Response, abort, current_app, g, request

from ..config import Settings
from ..errors import UnknownModel, shown
from ..lifecycle import Lifecycle
from ..speech import formats, text
from ..speech.request import FRAMES_A_SECOND, SpeechRequest
from . import schemas

logger = logging.getLogger(__name__)


def blueprint(lifecycle: Lifecycle, settings: Settings, model_name: str) -> Blueprint:
    """The endpoint over one loaded model."""
    routes = Blueprint("speech", __name__)

    @routes.post("/v1/audio/speech")
    def speak() -> Response:
        if request.mimetype != "application/json":
            abort(415, f"`Content-Type` is {shown(request.mimetype)}: send `application/json`")
        if (request.content_length or 0) > settings.max_body_bytes:
            abort(
                413,
                f"the body has {request.content_length} bytes, at most {settings.max_body_bytes} are allowed",
            )
        body = schemas.parse(request.get_data())
        audio_format = formats.check(body.response_format)
        if body.model not in (None, model_name):
            raise UnknownModel(
                f"`model` is {shown(body.model)}: this server has {model_name!r}", param="model"
            )
        wanted = SpeechRequest(
            text=text.clean(body.input, max_chars=settings.max_input_chars),
            voice=body.voice,
            language=body.language,
            instructions=_instructions(body.instructions, settings.max_input_chars),
            seed=secrets.randbits(31) if body.seed is None else body.seed,
            max_frames=int(settings.max_audio_seconds * FRAMES_A_SECOND) or 1,
        )
        speech = lifecycle.speak(
            wanted, audio_format=audio_format, timeout_s=settings.request_timeout_s, gone=_client_is_gone()
        )
        logger.info(
            "%s key=%s voice=%s language=%s characters=%d audio=%.2fs queue=%.2fs compute=%.2fs finish=%s",
            g.request_id,
            g.key_name,
            wanted.voice,
            wanted.language,
            len(wanted.text),
            speech.audio_s,
            speech.queue_s,
            speech.compute_s,
            speech.finish,
        )
        response = current_app.response_class(speech.audio, mimetype=formats.CONTENT_TYPES[audio_format])
        response.headers["X-Seed"] = str(wanted.seed)
        response.headers["X-Finish-Reason"] = speech.finish
        response.headers["X-Audio-Seconds"] = f"{speech.audio_s:.3f}"
        response.headers["X-Compute-Seconds"] = f"{speech.compute_s:.3f}"
        return response

    return routes


def _instructions(given: str | None, max_chars: int) -> str | None:
    """Empty instructions are none: clients send the field whether it is filled in or not."""
    if given is None or not given.strip():
        return None
    return text.clean(given, max_chars=max_chars, param="instructions")


def _client_is_gone() -> Callable[[], bool]:
    """waitress tells whether the socket has closed; other servers do not, and then nobody is ever gone."""
    gone: Callable[[], bool] = request.environ.get("waitress.client_disconnected", lambda: False)
    return gone
