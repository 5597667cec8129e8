"""``/v1/audio/voices``: who can speak, and the voices that are saved here."""

from __future__ import annotations

from flask import Blueprint, Response, abort, jsonify, request

from ..config import Settings
from ..errors import shown
from ..lifecycle import Lifecycle
from ..served_model import ServedModel
from ..voices.saved import SavedVoice, clean_name
from ..voices.store import VoiceStore
from . import schemas, uploads
from .aliases import Aliases
from .catalogue import served
from .metrics import Metrics
from .routing import Router
from .voice_making import VoiceMaker

_BACKUP = "application/octet-stream"


def blueprint(
    lifecycle: Lifecycle, settings: Settings, store: VoiceStore, router: Router, metrics: Metrics
) -> Blueprint:
    """The list, single voices, and all of them as one file."""
    routes = Blueprint("voices", __name__)
    aliases = Aliases(settings)
    maker = VoiceMaker(lifecycle, settings, store, router, metrics)

    @routes.get("/v1/audio/voices")
    def listed() -> Response:
        speakers = [voice for model in served(lifecycle) for voice in _speakers(model, aliases)]
        return jsonify({"voices": speakers + [_short(voice, router) for voice in store.all()]})

    @routes.post("/v1/audio/voices")
    def create() -> tuple[Response, int]:
        if request.mimetype == "multipart/form-data":
            voice = maker.cloned()
        elif request.mimetype == "application/json":
            voice = maker.designed(request.get_data())
        else:
            abort(
                415,
                f"`Content-Type` is {shown(request.mimetype)}: send a recording as `multipart/form-data`, or a "
                "description as `application/json`",
            )
        return jsonify(_whole(voice, router)), 201

    @routes.get("/v1/audio/voices/<voice_id>")
    def single(voice_id: str) -> Response:
        return jsonify(_whole(store.get(voice_id), router))

    @routes.patch("/v1/audio/voices/<voice_id>")
    def rename(voice_id: str) -> Response:
        body = schemas.parse_as(schemas.RenameBody, uploads.content("application/json"))
        name = clean_name(body.name)
        router.check_name(name)
        return jsonify(_whole(store.rename(voice_id, name), router))

    @routes.delete("/v1/audio/voices/<voice_id>")
    def delete(voice_id: str) -> Response:
        store.remove(voice_id)
        return jsonify({"id": voice_id, "object": "voice", "deleted": True})

    @routes.get("/v1/audio/voices/export")
    def export() -> Response:
        response = Response(store.exported(), content_type=_BACKUP)
        response.headers["Content-Disposition"] = 'attachment; filename="voices.safetensors"'
        return response

    @routes.post("/v1/audio/voices/import")
    def restore() -> Response:
        imported = store.import_(uploads.content(_BACKUP), router.check_name)
        return jsonify({"added": list(imported.added), "unchanged": list(imported.unchanged)})

    return routes


def _speakers(model: ServedModel, aliases: Aliases) -> list[dict[str, str | None]]:
    speakers = model.kind.speakers if model.kind is not None else ()
    voices = [(name, name, "speaker") for name in speakers]
    voices += [(alias, speaker, "alias") for alias, speaker in aliases.voices(speakers).items()]
    return [
        {"id": voice, "name": name, "language": None, "model": model.name, "kind": kind}
        for voice, name, kind in voices
    ]


def _short(voice: SavedVoice, router: Router) -> dict[str, str | None]:
    words, model = voice.words, router.speaks_with(voice)
    return {
        "id": words.id,
        "name": words.name,
        "language": words.language,
        "model": model.name if model is not None else None,
        "kind": words.kind,
    }


def _whole(voice: SavedVoice, router: Router) -> dict[str, object]:
    words = voice.words
    return {
        **_short(voice, router),
        "mode": "x-vector" if words.ref_text is None else "in-context",
        "ref_text": words.ref_text,
        "consent": words.consent,
        "created": words.created,
        "model_size": words.model_size,
    }
