"""``GET /health`` (the process lives) and ``GET /ready`` (it can speak, or why not)."""

from __future__ import annotations

import math
from dataclasses import asdict

from flask import Blueprint, Response, jsonify

from ..checkpoints.download_state import DownloadState
from ..lifecycle import ComingUp, Lifecycle
from ..served_model import ServedModel
from . import error_responses
from .catalogue import NOISE


def blueprint(lifecycle: Lifecycle) -> Blueprint:
    """Both answers; they need no key, so that a balancer and systemd may ask."""
    routes = Blueprint("health", __name__)

    @routes.get("/health")
    def health() -> Response:
        return jsonify({"status": "ok"})

    @routes.get("/ready")
    def ready() -> Response:
        status = lifecycle.readiness
        main, *more = lifecycle.models.values()
        answer: dict[str, object] = {
            "status": status.state,
            "reason": error_responses.without_paths(status.reason),
            "model": main.name,
        }
        if (missing := status.missing) and missing.download:
            answer["download"] = _download(missing.download)
        if coming_up := lifecycle.coming_up:
            answer["loading"] = _loading(coming_up)
        answer |= {**_described(main), **_load(main)}
        if more:
            answer["more_models"] = [
                {"model": model.name, "state": model.state, **_described(model)} for model in more
            ]
        response = jsonify(answer)
        if status.state != "ready":
            response.status_code = 503
            response.headers["Retry-After"] = str(math.ceil(lifecycle.refusal().retry_after_s))
        return response

    return routes


def _download(download: DownloadState) -> dict[str, object]:
    """How far the weights are, as their download said last; sizes in bytes."""
    left = download.remaining_s
    return {
        "state": download.state,
        "file": error_responses.without_paths(download.file),
        "bytes": download.done,
        "total_bytes": download.total,
        "bytes_per_second": round(download.rate),
        "remaining_seconds": None if left is None else round(left, 1),
    }


def _loading(coming_up: ComingUp) -> dict[str, object]:
    """How far the model is on its way from the disk to its first sentence."""
    usual_s = coming_up.usual_s
    left = None if usual_s is None else round(max(usual_s - coming_up.elapsed_s, 0.0), 1)
    return {
        "total_bytes": coming_up.size,
        "elapsed_seconds": round(coming_up.elapsed_s, 1),
        "remaining_seconds": left,
    }


def _described(model: ServedModel) -> dict[str, object]:
    """What is known of a model since it was loaded."""
    described = model.description
    if described is None:
        return {}
    answer: dict[str, object] = {
        "device": described.device,
        "dtype": described.dtype,
        "synthetic": described.synthetic,
        "self_check": asdict(model.self_check),
        "ways": {str(batch): way for batch, way in model.ways().items()},
        "why_not_faster": {str(batch): reason for batch, reason in model.reasons().items()},
        "max_streams": model.capacity.streams,
        "stream_speeds": {str(streams): round(speed, 3) for streams, speed in model.capacity.speeds.items()},
        "codec": {"way": model.codec_way, "why_not_faster": model.codec_reason},
    }
    if described.synthetic:
        answer["notice"] = NOISE
    return answer


def _load(model: ServedModel) -> dict[str, object]:
    """How much there is to do."""
    load = model.load
    return {"speaking": load.speaking, "waiting": load.waiting}
