"""``POST /v1/audio/speech``: sound leaves while it is made; and how a request went, afterwards."""

from __future__ import annotations

import time

from flask import Blueprint, Response, abort, g, jsonify

from ..config import Settings
from ..errors import shown
from ..lifecycle import Lifecycle
from . import schemas, timeout_header, uploads
from .answer import Answer
from .asking import Asking, named_as_sent
from .batch import Batches
from .metrics import Metrics
from .records import KEPT_S, Records
from .routing import Router
from .streams import client_is_gone, connection, takes_chunks


def blueprint(lifecycle: Lifecycle, settings: Settings, metrics: Metrics, router: Router) -> Blueprint:
    """The endpoints over the models of one process."""
    routes = Blueprint("speech", __name__)
    asking = Asking(settings, router)
    records = Records()
    batches = Batches(lifecycle, settings, asking, metrics, records)

    @routes.post("/v1/audio/speech")
    def speak() -> Response:
        body, ignored = schemas.parse(uploads.content("application/json"))
        events = body.stream_format == "sse"
        # HTTP/1.0 knows no chunks: there the end of an answer without a length looks like a cut.
        with metrics.refusals(lifecycle.main.name):
            asked = asking.read(body, whole=not events and not (body.stream and takes_chunks()))
        timeout_s = timeout_header.seconds(settings.request_timeout_s)
        deadline = time.monotonic() + timeout_s
        with metrics.refusals(asked.model), named_as_sent(clone="voice"):
            speech = lifecycle.speak(
                asked.request,
                model=asked.model,
                output=asked.output,
                timeout_s=timeout_s,
                client=g.key_name,
                gone=client_is_gone(),
            )
        client = connection()
        answer = Answer(
            speech, asked, request_id=g.request_id, key_name=g.key_name, metrics=metrics, records=records
        )
        try:
            client.watch(speech.cancel, deadline)
            # The status line waits for the first sound: what fails before it is told by its true status.
            if events:
                response = answer.events()
            elif asked.output.whole:
                response = answer.whole()
            else:
                response = answer.streamed(client)
        except BaseException:
            answer.close()
            raise
        response.headers["X-Seed"] = str(asked.request.seed)
        if ignored:
            response.headers["Warning"] = f'299 - "ignored: {", ".join(ignored)}"'
        # nginx and its kin would keep the sound until there is more of it.
        response.headers["X-Accel-Buffering"] = "no"
        return response

    @routes.post("/v1/audio/speech/batch")
    def speak_batch() -> Response:
        return batches.answer(schemas.parse_as(schemas.BatchBody, uploads.content("application/json")))

    @routes.get("/v1/audio/speech/<request_id>")
    def went(request_id: str) -> Response:
        record = records.find(request_id, g.key_name)
        if record is None:
            abort(404, f"no request {shown(request_id)} within the last {KEPT_S / 60:g} minutes")
        return jsonify(record.facts())

    return routes
