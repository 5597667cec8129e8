"""``GET /metrics``: what Prometheus scrapes."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from flask import Blueprint, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from .. import __version__
from ..errors import Cancelled, DeadlineExceeded, InvalidRequest, TTSError, Unavailable
from ..lifecycle import Lifecycle
from ..served_model import ServedModel
from ..synthesis import Speech

_FIRST_AUDIO_S = (0.02, 0.04, 0.06, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_QUEUE_WAIT_S = (0.005, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_RATIO = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0, 1.5, 2.0, 5.0, 10.0)


class Metrics:
    """The counters of the process' requests, and its models as they are when asked."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        # A second series for each counter with the time of its first use says nothing here.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "qwen3_tts_requests",
            "Requests for speech by how they ended: stop, length, cancelled, deadline, error; or, without "
            "speech: refused (queue full or not ready) and invalid.",
            ["model", "finish"],
            registry=self.registry,
        )
        self._audio = Counter("qwen3_tts_audio_seconds", "Speech made.", ["model"], registry=self.registry)
        self._bytes = Counter(
            "qwen3_tts_audio_bytes", "Encoded speech given to clients.", ["model"], registry=self.registry
        )
        self._first_audio = Histogram(
            "qwen3_tts_first_audio_seconds",
            "From a request's arrival to its first sound.",
            ["model"],
            buckets=_FIRST_AUDIO_S,
            registry=self.registry,
        )
        self._ratio = Histogram(
            "qwen3_tts_compute_ratio",
            "Seconds that a request waited for the engine, for each second of its speech; above 1 its "
            "listener waits.",
            ["model"],
            buckets=_RATIO,
            registry=self.registry,
        )
        self._refused = Counter(
            "qwen3_tts_refused",
            "Requests for speech that were not served though nothing was wrong with them, by the error's code: with "
            "429 queue_full, queue_wait and rate_limited, with 503 not_ready, downloading, no_weights and draining, "
            "with 504 deadline_exceeded.",
            ["reason"],
            registry=self.registry,
        )
        self._queue_wait = Histogram(
            "qwen3_tts_queue_wait_seconds",
            "From a request's arrival to its turn, of those that had one.",
            ["model"],
            buckets=_QUEUE_WAIT_S,
            registry=self.registry,
        )
        build = Gauge(
            "qwen3_tts_build_info", "1; its labels are versions.", list(_versions()), registry=self.registry
        )
        build.labels(**_versions()).set(1)
        self.registry.register(_Models(lifecycle))

    def ended(self, model: str, speech: Speech) -> None:
        """Count a request that had its turn."""
        self._requests.labels(model, str(speech.finish)).inc()
        self._audio.labels(model).inc(speech.audio_s)
        self._bytes.labels(model).inc(speech.encoded_bytes)
        self._queue_wait.labels(model).observe(speech.queue_s)
        if speech.first_audio_s is not None:
            self._first_audio.labels(model).observe(speech.first_audio_s)
            self._ratio.labels(model).observe(speech.compute_s / speech.audio_s)

    @contextmanager
    def refusals(self, model: str) -> Iterator[None]:
        """Count a request that gets no turn."""
        try:
            with self.refusals_by_reason():
                yield
        except TTSError as error:
            self._requests.labels(model, _word(error)).inc()
            raise
        except Exception:
            self._requests.labels(model, "error").inc()
            raise

    @contextmanager
    def refusals_by_reason(self) -> Iterator[None]:
        """Count why a request is not served, before it is known which model it wants."""
        try:
            yield
        except Unavailable as error:
            self._refused.labels(error.code).inc()
            raise


def _versions() -> dict[str, str]:
    """Of the service, of Python, and of torch where it is installed: it is the engine's process that imports it."""
    versions = {"version": __version__, "python": platform.python_version()}
    with suppress(importlib.metadata.PackageNotFoundError):
        versions["torch"] = importlib.metadata.version("torch")
    return versions


def _word(error: TTSError) -> str:
    families: tuple[tuple[type[TTSError], str], ...] = (
        (InvalidRequest, "invalid"),
        (Cancelled, "cancelled"),
        (DeadlineExceeded, "deadline"),
        (Unavailable, "refused"),
    )
    return next((word for family, word in families if isinstance(error, family)), "error")


class _Models(Collector):
    """What is read when it is asked for."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    def collect(self) -> Iterable[Metric]:
        ready = GaugeMetricFamily("qwen3_tts_ready", "1 when the process can speak.")
        ready.add_metric([], float(self._lifecycle.status.state == "ready"))
        models = self._lifecycle.models.values()
        return [ready, *self._download(), *_rooms(models), *_ways(models), *_engines(models)]

    def _download(self) -> Iterable[Metric]:
        """How far the weights are, while they are missing."""
        missing = self._lifecycle.status.missing
        if missing is None or missing.download is None:
            return
        for name, meaning, size in (
            ("bytes", "Bytes of the weights that have arrived.", missing.download.done),
            ("total_bytes", "Bytes of the weights in all.", missing.download.total),
        ):
            gauge = GaugeMetricFamily(f"qwen3_tts_download_{name}", meaning)
            gauge.add_metric([], size)
            yield gauge


def _gauge(name: str, meaning: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"qwen3_tts_{name}", meaning, labels=["model", *labels])


def _counter(name: str, meaning: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"qwen3_tts_{name}", meaning, labels=["model"])


def _rooms(models: Iterable[ServedModel]) -> Iterable[Metric]:
    """Who speaks and who waits."""
    loaded = _gauge("model_loaded", "1 while the model is loaded.")
    slots = _gauge("slots", "Requests that can be spoken at a time.")
    streams = _gauge(
        "max_streams", "Requests that are spoken at a time: what the host sustains, or the setting."
    )
    busy = _gauge("slots_busy", "Requests being spoken.")
    queue = _gauge("queue_length", "Requests that wait for a slot.")
    for model in models:
        load = model.load
        loaded.add_metric([model.name], float(model.state == "ready"))
        slots.add_metric([model.name], load.slots)
        streams.add_metric([model.name], load.streams)
        busy.add_metric([model.name], load.speaking)
        queue.add_metric([model.name], load.waiting)
    return loaded, slots, streams, busy, queue


def _ways(models: Iterable[ServedModel]) -> Iterable[Metric]:
    """How each part of a loaded model computes; ``/ready`` says why not faster."""
    frames = _gauge(
        "way_info", "How frames of so many slots are computed: captured, compiled or eager.", "batch", "way"
    )
    prompts = _gauge("prompt_way_info", "How prompts are read: captured or eager.", "way")
    codec = _gauge("codec_way_info", "How the codec computes: captured, compiled or eager.", "way")
    for model in models:
        ways = model.ways()
        for batch, way in ways.items():
            frames.add_metric([model.name, str(batch), way], 1)
        for part, way in ((prompts, model.prompt_way), (codec, model.codec_way)):
            # The last load's; upstream's code has none.
            if ways and way:
                part.add_metric([model.name, way], 1)
    return frames, prompts, codec


def _engines(models: Iterable[ServedModel]) -> Iterable[Metric]:
    """What frame loops count, and of what they share in their process, the codec and the memory, each once."""
    frames = _counter(
        "frames", "Frames, of all voices at once, since the model was loaded; the rate is frames a second."
    )
    paused = _gauge("slots_paused", "Slots held because their readers lag.")
    gap = _gauge(
        "frame_gap_seconds",
        "From one frame to the next, over the newest 1024: median and 95th percentile.",
        "quantile",
    )
    counted = [(model, stats) for model in models if (stats := model.stats()) is not None]
    for model, stats in counted:
        frames.add_metric([model.name], stats.frames.frames)
        paused.add_metric([model.name], stats.frames.paused)
        for quantile, seconds in (("0.5", stats.frames.gap_p50_s), ("0.95", stats.frames.gap_p95_s)):
            if seconds is not None:
                gap.add_metric([model.name, quantile], seconds)
    if not counted:
        return [frames, paused, gap]
    model, stats = counted[-1]
    device = model.description.device if model.description else ""
    shared = _shared(stats.codec.frames, stats.codec.backlog, stats.memory_bytes, device)
    return [frames, paused, gap, *shared]


def _shared(decoded: int, backlog: int, held: int, device: str) -> Iterable[Metric]:
    """The same in the counts of every model."""
    yield CounterMetricFamily(
        "qwen3_tts_codec_frames",
        "Frames of one voice each turned into sound; for each of `frames` it is the batch's occupancy.",
        value=decoded,
    )
    yield GaugeMetricFamily(
        "qwen3_tts_codec_backlog_frames",
        "Frames that wait for the codec or are in it.",
        value=backlog,
    )
    memory = GaugeMetricFamily(
        "qwen3_tts_memory_bytes",
        "Held by the engine's process, for all models: of the GPU, or on a CPU in all.",
        labels=["device"],
    )
    memory.add_metric([device], held)
    yield memory


def blueprint(metrics: Metrics) -> Blueprint:
    """The answer to a scrape. It needs a key where others do."""
    routes = Blueprint("metrics", __name__)

    @routes.get("/metrics")
    def scrape() -> Response:
        return Response(generate_latest(metrics.registry), content_type=CONTENT_TYPE_LATEST)

    return routes
