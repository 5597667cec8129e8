"""``GET /v1/models`` and ``GET /v1/audio/voices``: what the loaded checkpoint offers."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from ..lifecycle import Lifecycle

#: Said wherever a person meets a synthetic checkpoint.
NOISE = "random weights: noise, not speech"


def blueprint(lifecycle: Lifecycle, model_name: str) -> Blueprint:
    """Both lists; 503 while the model loads."""
    routes = Blueprint("catalogue", __name__)

    @routes.get("/v1/models")
    def models() -> Response:
        engine = lifecycle.engine
        model = {
            "id": model_name,
            "object": "model",
            "owned_by": "qwen3-tts-service",
            "type": engine.model_type,
            "languages": list(engine.languages),
            "synthetic": engine.synthetic,
        }
        return jsonify({"object": "list", "data": [model | ({"notice": NOISE} if engine.synthetic else {})]})

    @routes.get("/v1/audio/voices")
    def voices() -> Response:
        return jsonify(
            {
                "voices": [
                    {"id": name, "name": name, "model": model_name, "kind": "speaker"}
                    for name in lifecycle.engine.speakers
                ]
            }
        )

    return routes
