"""The Flask application: resources, keys, limits and headers put together."""

from __future__ import annotations

import secrets

from flask import Flask, Response, g, request

from ..config import Settings
from ..lifecycle import Lifecycle
from ..voices.store import VoiceStore
from . import catalogue, error_responses, health, metrics, openapi, page, speech, voices
from .auth import KeyRing
from .edge import Edge
from .rate_limit import RateLimit
from .routing import Router


def create_app(lifecycle: Lifecycle, settings: Settings, keys: KeyRing, saved: VoiceStore) -> Flask:
    """Build the application over one lifecycle and one store of voices. The size of a body is the server's to limit."""
    # No static folder: the package's directory must not be reachable by a path.
    app = Flask("qwen3_tts_service", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    edge = Edge(settings, keys)
    counted = metrics.Metrics(lifecycle)
    router = Router(lifecycle, settings, saved)
    rate_limit = RateLimit(settings.rate_limit_per_key)

    @app.before_request
    def identify() -> None:
        g.request_id = secrets.token_hex(8)
        g.key_name = "-"

    @app.before_request
    def admit() -> Response | None:
        return edge.admit()

    @app.before_request
    def count() -> None:
        if request.method == "POST":
            with counted.refusals_by_reason():
                rate_limit.count(g.key_name)

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.get("request_id", "-")
        return edge.finish(response)

    error_responses.register(app)
    app.register_blueprint(health.blueprint(lifecycle))
    app.register_blueprint(catalogue.blueprint(lifecycle))
    app.register_blueprint(metrics.blueprint(counted))
    app.register_blueprint(openapi.blueprint())
    app.register_blueprint(page.blueprint())
    app.register_blueprint(speech.blueprint(lifecycle, settings, counted, router))
    app.register_blueprint(voices.blueprint(lifecycle, settings, saved, router, counted))
    return app
