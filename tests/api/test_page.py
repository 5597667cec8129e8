"""The page's files as the server sends them: which there are, to whom, and under which policy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import qwen3_tts_service
from qwen3_tts_service.api import page
from qwen3_tts_service.api.auth import KeyRing
from stand_in_engine import Service, service

FOLDER = Path(qwen3_tts_service.__file__).parent / "page"
KEYS = KeyRing((("kitchen", hashlib.sha256(b"one").digest()),))


@pytest.fixture(scope="module")
def keyed() -> Iterator[Service]:
    with service(KEYS) as started:
        yield started


@pytest.mark.parametrize("path", sorted(page.PATHS))
def test_every_file_is_there_without_a_key(keyed: Service, path: str) -> None:
    answer = keyed.ask("GET", path)
    assert answer.status == 200
    name = "index.html" if path == "/" else path.removeprefix("/page/")
    assert answer.content == (FOLDER / name).read_bytes()
    assert "charset=utf-8" in answer.headers["content-type"] or name.endswith(".svg")
    # Kept by the browser, and asked for again with its sum.
    assert answer.headers["cache-control"] == "no-cache"
    again = keyed.ask("GET", path, If_None_Match=answer.headers["etag"])
    assert (again.status, again.content) == (304, b"")


def test_the_table_has_every_file_of_the_folder() -> None:
    served = {path.removeprefix("/page/") for path in page.PATHS - {"/"}}
    files = {file.relative_to(FOLDER).as_posix() for file in FOLDER.rglob("*") if file.is_file()}
    texts = {"index.html", "vendor/README.md", "vendor/wavesurfer.LICENSE"}
    assert served == files - texts


@pytest.mark.parametrize(
    "path", ["/page/", "/page/../api/app.py", "/page/%2e%2e/api/app.py", "/page/vendor/README.md"]
)
def test_nothing_else_is_a_file(keyed: Service, path: str) -> None:
    assert keyed.ask("GET", path, Authorization="Bearer one").status == 404


def test_the_policy_lets_nothing_in_from_elsewhere(keyed: Service) -> None:
    policy = keyed.ask("GET", "/").headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert (
        rules["default-src"]
        == rules["base-uri"]
        == rules["form-action"]
        == rules["frame-ancestors"]
        == "'none'"
    )
    assert rules["script-src"] == rules["connect-src"] == rules["img-src"] == "'self'"
    assert "unsafe" not in policy
    assert "http" not in policy


def test_the_text_has_no_script_and_no_style_of_its_own() -> None:
    text = (FOLDER / "index.html").read_text(encoding="utf-8")
    for inline in ("<style", " style=", " onclick=", "javascript:", "<script>"):
        assert inline not in text
    for file in FOLDER.glob("*.js"):
        script = file.read_text(encoding="utf-8")
        for way_in in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert way_in not in script, file
