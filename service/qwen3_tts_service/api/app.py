"""The Flask application: resources, keys, limits and headers put together."""

from __future__ import annotations

import secrets

from flask import Flask, Response, g, request

from ..config import Settings
from ..lifecycle import Lifecycle
from . import catalogue, error_responses, health, metrics, openapi, speech
from .auth import KeyRing

#: Paths that answer without a key.
OPEN_PATHS = frozenset({"/health", "/ready", "/openapi.json"})


def create_app(lifecycle: Lifecycle, settings: Settings, keys: KeyRing) -> Flask:
    """Build the application over one lifecycle. The size of a body is the server's to limit."""
    # No static folder: the package's directory must not be reachable by a path.
    app = Flask("qwen3_tts_service", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    counted = metrics.Metrics(lifecycle)

    @app.before_request
    def identify() -> None:
        g.request_id = secrets.token_hex(8)
        g.key_name = "-"
        if request.path not in OPEN_PATHS:
            g.key_name = keys.authenticate(request.headers.get("Authorization"))

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.get("request_id", "-")
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        return response

    error_responses.register(app)
    app.register_blueprint(health.blueprint(lifecycle))
    app.register_blueprint(catalogue.blueprint(lifecycle, settings))
    app.register_blueprint(metrics.blueprint(counted))
    app.register_blueprint(openapi.blueprint())
    app.register_blueprint(speech.blueprint(lifecycle, settings, counted))
    return app
