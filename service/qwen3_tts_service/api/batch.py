"""``POST /v1/audio/speech/batch``: many texts in one request, each with a result of its own."""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from flask import Response, current_app, g

from ..config import Settings
from ..errors import Cancelled, EngineError, QueueFull, TTSError
from ..lifecycle import Lifecycle
from ..synthesis import Speech
from . import error_responses, schemas, timeout_header
from .answer import Answer
from .asking import Asked, Asking, named_as_sent
from .metrics import Metrics
from .records import Records
from .streams import BrokenOff, client_is_gone, connection

logger = logging.getLogger(__name__)

#: Items of all batches that are spoken, or wait for a slot, at a time.
_WORKERS = 8
#: How often an item that finds the queue full tries again (seconds): who asks for one text comes first.
_AGAIN_S = 0.2


@dataclass(frozen=True)
class _Client:
    """Who sent a batch, for threads without the request's context."""

    request_id: str
    key_name: str
    deadline: float
    gone: Callable[[], bool]


class Batches:
    """Speaks the items of batches, on threads that all batches share."""

    def __init__(
        self, lifecycle: Lifecycle, settings: Settings, asking: Asking, metrics: Metrics, records: Records
    ) -> None:
        self._lifecycle = lifecycle
        self._settings = settings
        self._asking = asking
        self._metrics = metrics
        self._records = records
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="batch")

    def answer(self, batch: schemas.BatchBody) -> Response:
        """One JSON object whose ``results`` are in the items' order, each sent as soon as those before it are."""
        given_up = threading.Event()
        is_gone = client_is_gone()
        client = _Client(
            g.request_id,
            g.key_name,
            time.monotonic() + timeout_header.seconds(self._settings.request_timeout_s),
            lambda: given_up.is_set() or is_gone(),
        )
        connection().watch(given_up.set, client.deadline)
        results = [
            self._workers.submit(self._result, number, batch.defaults | item, client)
            for number, item in enumerate(batch.items)
        ]
        response = current_app.response_class(_json(results))
        response.mimetype = "application/json"
        response.call_on_close(given_up.set)
        response.headers["X-Accel-Buffering"] = "no"
        return response

    def _result(self, number: int, item: dict[str, Any], client: _Client) -> dict[str, Any]:
        try:
            return {"index": number, "status": 200, **self._spoken(number, item, client)}
        except TTSError as error:
            failure = error
        except Exception as error:
            # Whatever a library raises: the other items have their results.
            logger.exception("%s failed unexpectedly at item %d", client.request_id, number)
            failure = EngineError("the server failed; its journal has the details")
            failure.__cause__ = error
        return {
            "index": number,
            "status": error_responses.status_of(failure),
            **error_responses.described(failure),
        }

    def _spoken(self, number: int, item: dict[str, Any], client: _Client) -> dict[str, Any]:
        body, _ = schemas.speech(item)
        with self._metrics.refusals(self._lifecycle.main.name):
            asked = self._asking.read(body, whole=True)
        with self._metrics.refusals(asked.model), named_as_sent(clone="voice"):
            speech = self._begun(asked, client)
        answer = Answer(
            speech,
            asked,
            request_id=f"{client.request_id}-{number}",
            key_name=client.key_name,
            metrics=self._metrics,
            records=self._records,
        )
        content = answer.content()
        return {
            "content_type": asked.output.content_type,
            "audio": base64.b64encode(content).decode(),
            **answer.facts(),
        }

    def _begun(self, asked: Asked, client: _Client) -> Speech:
        """The item's speech, when there is room for it."""
        while True:
            if client.gone():
                raise Cancelled("the client went away before its turn came")
            try:
                return self._lifecycle.speak(
                    asked.request,
                    model=asked.model,
                    output=asked.output,
                    timeout_s=client.deadline - time.monotonic(),
                    client=client.key_name,
                    gone=client.gone,
                )
            except QueueFull:
                if time.monotonic() + _AGAIN_S > client.deadline:
                    raise
                time.sleep(_AGAIN_S)


def _json(results: list[Future[dict[str, Any]]]) -> Iterator[bytes]:
    """The answer's body; what was sent is forgotten."""
    opening = '{"results": ['
    while results:
        result = results.pop(0).result()
        if result["status"] == error_responses.status_of(Cancelled("")):
            raise BrokenOff
        yield (opening + json.dumps(result)).encode()
        opening = ", "
    yield b"]}"
