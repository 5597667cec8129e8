"""A voice that is saved is made here: of a recording of a person, or of a description."""

from __future__ import annotations

import secrets
import time
from contextlib import closing
from typing import Literal

import numpy as np
from flask import g

from ..audio import recording_checks
from ..config import Settings
from ..errors import InvalidValue, UnknownLanguage, shown
from ..lifecycle import Lifecycle
from ..served_model import ServedModel
from ..speech import text
from ..speech.formats import Output
from ..speech.request import FRAMES_A_SECOND, CloneReference, SpeechRequest
from ..voices.saved import LONGEST_TEXT, SavedVoice, Words, clean_name, new_id
from ..voices.store import VoiceStore
from . import schemas, timeout_header, uploads, voice_field
from .asking import named_as_sent
from .metrics import Metrics
from .routing import Router
from .streams import client_is_gone

#: A designed voice speaks its sentence in so many seconds, or it is cut off and none.
_LONGEST_DESIGN_S = 30.0


class VoiceMaker:
    """Makes saved voices of what the request that is being handled holds."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        settings: Settings,
        store: VoiceStore,
        router: Router,
        metrics: Metrics,
    ) -> None:
        self._lifecycle = lifecycle
        self._settings = settings
        self._store = store
        self._router = router
        self._metrics = metrics

    def cloned(self) -> SavedVoice:
        """From a recording of a person, who agreed: the request is a form."""
        form = uploads.form(fields=("name", "consent", "ref_text", "language", "model"), files=("audio",))
        fields = form.fields
        for name, what in (("name", fields), ("audio", form.files), ("consent", fields)):
            if name not in what:
                raise InvalidValue(f"`{name}` is missing", param=name)
        if fields["consent"] != "true":
            raise InvalidValue(
                f"`consent` is {shown(fields['consent'])}: it must be `true`, which says that the person whose voice "
                "this is agreed",
                param="consent",
            )
        name = self._free_name(fields["name"])
        # Forms send the fields that were left empty, too.
        words = (
            text.clean(said, max_chars=LONGEST_TEXT, param="ref_text")
            if (said := fields.get("ref_text"))
            else None
        )
        model = self._router.of_type("base", fields.get("model") or None, "a recording")
        recording = voice_field.heard(
            form.files["audio"], words, max_bytes=self._settings.max_body_bytes, param="audio"
        )
        return self._kept(name, recording, model, kind="cloned", language=fields.get("language") or None)

    def designed(self, content: bytes) -> SavedVoice:
        """From a description, in JSON: a model speaks with that voice, another one listens to it."""
        body = schemas.parse_as(schemas.DesignBody, content)
        name = self._free_name(body.name)
        most = self._settings.max_input_chars
        wanted = SpeechRequest(
            text=text.clean(body.text, max_chars=min(most, LONGEST_TEXT), param="text"),
            instructions=text.clean(body.design, max_chars=most, param="design"),
            language=body.language,
            seed=secrets.randbits(31) if body.seed is None else body.seed,
            max_frames=int(_LONGEST_DESIGN_S * FRAMES_A_SECOND),
        )
        listens = self._router.of_type("base", body.model, "a voice that is saved")
        speaks = self._router.of_type("voice_design", None, "a description of a voice")
        with named_as_sent(input="text", instructions="design"):
            recording = self._spoken(wanted, speaks)
        return self._kept(name, recording, listens, kind="designed", language=body.language)

    def _free_name(self, name: str) -> str:
        name = clean_name(name)
        self._router.check_name(name)
        # Before anything is computed.
        self._store.check_room(name)
        return name

    def _spoken(self, wanted: SpeechRequest, model: ServedModel) -> CloneReference:
        with self._metrics.refusals(model.name):
            speech = self._lifecycle.speak(
                wanted,
                model=model.name,
                output=Output("pcm"),
                timeout_s=timeout_header.seconds(self._settings.request_timeout_s),
                client=g.key_name,
                gone=client_is_gone(),
            )
        with closing(speech):
            try:
                content = b"".join(speech)
            finally:
                self._metrics.ended(model.name, speech)
        if speech.finish != "stop":
            raise InvalidValue(
                f"the designed voice had not said all of `text` after {speech.audio_s:.0f} s: shorten it, or try "
                "another seed",
                param="text",
            )
        waveform = (np.frombuffer(content, "<i2") / 32768).astype(np.float32)
        recording_checks.check(waveform, voice_field.SAMPLE_RATE, param="design")
        return CloneReference(waveform, voice_field.SAMPLE_RATE, wanted.text)

    def _kept(
        self,
        name: str,
        recording: CloneReference,
        model: ServedModel,
        *,
        kind: Literal["cloned", "designed"],
        language: str | None,
    ) -> SavedVoice:
        with named_as_sent(clone="audio" if kind == "cloned" else "text"):
            prompt = self._lifecycle.listen(
                recording,
                model=model.name,
                timeout_s=timeout_header.seconds(self._settings.request_timeout_s),
                client=g.key_name,
                gone=client_is_gone(),
            )
        described = model.description
        assert described is not None  # it has listened
        if language is not None and language.lower() not in described.languages:
            raise UnknownLanguage(
                f"`language` is {shown(language)}: choose from {', '.join(described.languages)}",
                param="language",
            )
        words = Words(
            id=new_id(),
            name=name,
            language=language.lower() if language is not None else None,
            kind=kind,
            ref_text=recording.text,
            consent=True if kind == "cloned" else None,
            created=int(time.time()),
            model_size=described.model_size,
        )
        voice = SavedVoice(words, prompt)
        self._store.add(voice)
        return voice
