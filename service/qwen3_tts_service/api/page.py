"""The page at ``/``: a fixed table of files of this package, each under a path of its own.

No part of a request becomes a part of a file's name. The page asks nobody but this server, so it works where there
is no network beyond it, and it needs no key: it is where a person types the key in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources

from flask import Blueprint, Response, request

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_ROOT = "index.html"
_NAMES = (
    _ROOT,
    "colours.css",
    "style.css",
    "take.css",
    "icon.svg",
    "api.js",
    "app.js",
    "coming.js",
    "dialogs.js",
    "elements.js",
    "history.js",
    "history_view.js",
    "language.js",
    "new_voice.js",
    "player.js",
    "recorder.js",
    "recorder_worklet.js",
    "speaking.js",
    "status.js",
    "take.js",
    "take_view.js",
    "texts.js",
    "voices.js",
    "wav.js",
    "waveform.js",
    "vendor/wavesurfer.esm.js",
)
#: The one style sheet that is not a file: the library that draws the waveform puts it into its shadow root.
#: With another version, or another height of the waveform, it is another; then the browser names the new sum.
_WAVESURFER_STYLE = "'sha256-XGW/cX2BkTPWNNT3NdyASrPEWZfPnKdPJaJ2aN7R+v8='"
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        f"style-src 'self' {_WAVESURFER_STYLE}",
        "img-src 'self'",
        "connect-src 'self'",
        # A recording that was not saved yet, to be listened to.
        "media-src blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


def _path(name: str) -> str:
    return "/" if name == _ROOT else f"/page/{name}"


#: Where the files are found.
PATHS = frozenset(map(_path, _NAMES))


@dataclass(frozen=True)
class _File:
    content: bytes
    content_type: str
    etag: str


def blueprint() -> Blueprint:
    """The page's files. They are read once, at the start."""
    routes = Blueprint("page", __name__)
    for name in _NAMES:
        routes.add_url_rule(_path(name), name.replace(".", "_"), _view(_read(name)), methods=["GET"])
    return routes


def _read(name: str) -> _File:
    content = resources.files("qwen3_tts_service").joinpath("page", *name.split("/")).read_bytes()
    return _File(content, _TYPES[name.rpartition(".")[2]], hashlib.sha256(content).hexdigest()[:32])


def _view(file: _File) -> Callable[[], Response]:
    def serve() -> Response:
        response = Response(file.content, content_type=file.content_type)
        response.set_etag(file.etag)
        # Kept, and asked for again with its sum each time: a new release's page is one page, not half of two.
        response.headers["Cache-Control"] = "no-cache"
        response.headers["Content-Security-Policy"] = _POLICY
        response.make_conditional(request)
        return response

    return serve
