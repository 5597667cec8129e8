"""``GET /v1/models`` and ``GET /v1/audio/voices``: what the served checkpoints offer."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from ..config import Settings
from ..errors import NotReady
from ..lifecycle import Lifecycle
from ..served_model import ServedModel
from .aliases import Aliases

#: Said wherever a person meets a synthetic checkpoint.
NOISE = "random weights: noise, not speech"


def blueprint(lifecycle: Lifecycle, settings: Settings) -> Blueprint:
    """Both lists; 503 while the first model loads."""
    routes = Blueprint("catalogue", __name__)
    aliases = Aliases(settings)

    def served() -> list[ServedModel]:
        if lifecycle.main.description is None:
            raise NotReady(f"not ready: {lifecycle.status.reason}", retry_after_s=5.0)
        return list(lifecycle.models.values())

    @routes.get("/v1/models")
    def models() -> Response:
        return jsonify({"object": "list", "data": [_described(model) for model in served()]})

    @routes.get("/v1/audio/voices")
    def voices() -> Response:
        return jsonify({"voices": [voice for model in served() for voice in voices_of(model)]})

    def voices_of(model: ServedModel) -> list[dict[str, str]]:
        speakers = model.description.speakers if model.description else ()
        own = [{"id": name, "name": name, "model": model.name, "kind": "speaker"} for name in speakers]
        also = [
            {"id": alias, "name": speaker, "model": model.name, "kind": "alias"}
            for alias, speaker in aliases.voices(speakers).items()
        ]
        return own + also

    return routes


def _described(model: ServedModel) -> dict[str, object]:
    answer: dict[str, object] = {
        "id": model.name,
        "object": "model",
        "owned_by": "qwen3-tts-service",
        "state": model.state,
    }
    # Unknown until a model that is loaded on first use was used.
    if described := model.description:
        answer |= {
            "type": described.model_type,
            "languages": list(described.languages),
            "synthetic": described.synthetic,
        }
        if described.synthetic:
            answer["notice"] = NOISE
    return answer
