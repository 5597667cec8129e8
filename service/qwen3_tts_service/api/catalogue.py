"""``GET /v1/models``: what the served checkpoints are."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from ..lifecycle import Lifecycle
from ..served_model import ServedModel

#: Said wherever a person meets a synthetic checkpoint.
NOISE = "random weights: noise, not speech"


def blueprint(lifecycle: Lifecycle) -> Blueprint:
    """The list; 503 while the first model loads."""
    routes = Blueprint("catalogue", __name__)

    @routes.get("/v1/models")
    def models() -> Response:
        return jsonify({"object": "list", "data": [_described(model) for model in served(lifecycle)]})

    return routes


def served(lifecycle: Lifecycle) -> list[ServedModel]:
    """The models, once the first one is known. Raises NotReady."""
    if lifecycle.main.description is None:
        raise lifecycle.refusal()
    return list(lifecycle.models.values())


def _described(model: ServedModel) -> dict[str, object]:
    answer: dict[str, object] = {
        "id": model.name,
        "object": "model",
        "owned_by": "qwen3-tts-service",
        "state": model.state,
    }
    if model.kind is not None:
        answer["type"] = model.kind.model_type
    # Unknown until a model that is loaded on first use was used.
    if described := model.description:
        answer |= {
            "languages": list(described.languages),
            "synthetic": described.synthetic,
        }
        if described.synthetic:
            answer["notice"] = NOISE
    return answer
