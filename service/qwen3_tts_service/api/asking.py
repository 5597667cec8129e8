"""From the body of a request to what the engine is asked, and how the answer leaves."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..config import Settings
from ..errors import InvalidRequest, InvalidValue
from ..speech import parts, text
from ..speech.formats import Output
from ..speech.request import FRAMES_A_SECOND, Sampling, SpeechRequest
from .routing import Router
from .schemas import SpeechBody


@dataclass(frozen=True)
class Asked:
    """One request for speech: what is spoken by which model, and how it leaves.

    ``voice`` is what is told of the voice: a speaker, the id of a saved voice, or what else it is in brackets.
    """

    request: SpeechRequest
    output: Output
    model: str
    voice: str
    #: Whether the journal may have the text.
    log_text: bool


class Asking:
    """Reads bodies with one server's models, voices and limits."""

    def __init__(self, settings: Settings, router: Router) -> None:
        self._settings = settings
        self._router = router

    def read(self, body: SpeechBody, *, whole: bool) -> Asked:
        """What ``body`` asks for; ``whole`` sends nothing before all of it is made.

        Raises one of the InvalidRequest family.
        """
        settings = self._settings
        output = Output(
            body.response_format, speed=body.speed, marked=settings.mark_ai_generated, whole=whole
        )
        route = self._router.route(
            model=body.model, voice=body.voice, instructions=self._instructions(body.instructions)
        )
        text.check(body.input, max_chars=settings.max_input_chars)
        first, *more = parts.parts(body.input, body.split, body.language)
        Sampling(**dict(body.drawing))  # says what is out of range
        request = SpeechRequest(
            text=first,
            more_parts=tuple(more),
            pause_s=body.pause,
            voice=route.voice,
            clone=route.clone,
            language=body.language,
            instructions=route.instructions,
            seed=secrets.randbits(31) if body.seed is None else body.seed,
            max_frames=self._frames(body.max_seconds),
            drawing=body.drawing,
        )
        return Asked(request, output, route.model.name, route.label, settings.log_text)

    def _frames(self, max_seconds: float | None) -> int:
        limit = self._settings.max_audio_seconds
        if max_seconds is not None and max_seconds > limit:
            raise InvalidValue(
                f"`max_seconds` is {max_seconds:g}: this server speaks for at most {limit:g} s at a time",
                param="max_seconds",
            )
        return int((max_seconds or limit) * FRAMES_A_SECOND) or 1

    def _instructions(self, given: str | None) -> str | None:
        """Empty instructions are none: clients send the field whether it is filled in or not."""
        if given is None or not given.strip():
            return None
        return text.clean(given, max_chars=self._settings.max_input_chars, param="instructions")


@contextmanager
def named_as_sent(**fields: str) -> Iterator[None]:
    """The engine's names of fields are others than those of a body: ``fields`` has the body's by the engine's."""
    try:
        yield
    except InvalidRequest as error:
        error.param = fields.get(error.param or "", error.param)
        raise
