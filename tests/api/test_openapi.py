"""The document that describes the interface, and whether the server does what it says: schemathesis asks."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from qwen3_tts_service.api import openapi
from stand_in_engine import Service, service
from stand_in_voices import StandInBase, StandInDesign, source


def no_server_error_but_its_own_deadline(
    context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """Whoever wants an answer within no time is told that it was not enough."""
    if response.status_code != 504 or "X-Timeout" not in (case.headers or {}):
        not_a_server_error(context, response, case)


CHECKS = [
    no_server_error_but_its_own_deadline,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]
PATHS = openapi.document()["paths"]
#: Every operation with data as described, and those that take a body with data that is not; any bytes are bytes.
ASKED = [
    pytest.param(path, method, mode, id=f"{method} {path} {mode.value}")
    for path, operations in PATHS.items()
    for method, operation in operations.items()
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    if mode is GenerationMode.POSITIVE
    or operation.get("requestBody", {"content": {}})["content"].keys() - {"application/octet-stream"}
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    others = [source("base", StandInBase()), source("design", StandInDesign())]
    # More voices than are asked for: no room is a server's error.
    with service(
        slots=2, more=others, voices_directory=tmp_path_factory.mktemp("voices"), max_voices=10_000
    ) as started:
        yield started


@pytest.fixture
def schema(running: Service) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"http://127.0.0.1:{running.port}/openapi.json")


@pytest.mark.parametrize(("path", "method", "mode"), ASKED)
def test_the_server_does_what_its_document_says(
    schema: schemathesis.BaseSchema, path: str, method: str, mode: GenerationMode
) -> None:
    operation = schema[path][method]

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS, timeout=20)

    ask()


def test_every_endpoint_is_described(running: Service) -> None:
    from qwen3_tts_service.api.app import create_app
    from qwen3_tts_service.api.auth import KeyRing
    from qwen3_tts_service.config import Settings
    from qwen3_tts_service.voices.store import VoiceStore

    settings_ = Settings(model="/nowhere/stand-in")  # type: ignore[arg-type]
    voices = VoiceStore(None, most_voices=0, most_bytes=0)
    app = create_app(running.lifecycle, settings_, KeyRing(), voices)
    described = {
        (re.sub(r"\{\w+\}", "*", path), method.upper())
        for path, operations in PATHS.items()
        for method in operations
    }
    routed = {
        (re.sub(r"<[\w:]+>", "*", rule.rule), method)
        for rule in app.url_map.iter_rules()
        if not rule.endpoint.startswith("page.")  # for people
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert described == routed - {("/openapi.json", "GET")}


def test_the_examples_are_answered(running: Service) -> None:
    schemas = openapi.document()["components"]["schemas"]
    [speech] = schemas["Speech"]["examples"]
    assert running.ask("POST", "/v1/audio/speech", speech).status == 200
    [batch] = schemas["Batch"]["examples"]
    assert running.ask("POST", "/v1/audio/speech/batch", batch).status == 200
    [design] = schemas["Design"]["examples"]
    assert running.ask("POST", "/v1/audio/voices", {**design, "name": "Example"}).status == 201
