"""``GET /health`` (the process lives) and ``GET /ready`` (it can speak, or why not)."""

from __future__ import annotations

from dataclasses import asdict

from flask import Blueprint, Response, jsonify

from ..errors import NotReady
from ..lifecycle import Lifecycle
from .catalogue import NOISE


def blueprint(lifecycle: Lifecycle, model_name: str) -> Blueprint:
    """Both answers; they need no key, so that a balancer and systemd may ask."""
    routes = Blueprint("health", __name__)

    @routes.get("/health")
    def health() -> Response:
        return jsonify({"status": "ok"})

    @routes.get("/ready")
    def ready() -> Response:
        status = lifecycle.status
        answer: dict[str, object] = {"status": status.state, "reason": status.reason, "model": model_name}
        try:
            engine = lifecycle.engine
        except NotReady:
            pass
        else:
            answer |= {
                "device": str(engine.device),
                "dtype": str(engine.dtype).removeprefix("torch."),
                "synthetic": engine.synthetic,
                "self_check": asdict(lifecycle.self_check),
            }
            if engine.synthetic:
                answer["notice"] = NOISE
        response = jsonify(answer)
        if status.state != "ready":
            response.status_code = 503
            response.headers["Retry-After"] = "5"
        return response

    return routes
