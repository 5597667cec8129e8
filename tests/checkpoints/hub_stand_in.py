"""A model hub on loopback: the part of the hub's API that a snapshot download uses, with faults on demand.

Answers the repository's file list at a revision, HEAD with the headers that carry commit, hash and size, and
GET with ranges. Large files redirect to another path, as the hub redirects to its storage.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

LARGE = 1 << 20  # bytes; the hub keeps bigger files in its large file storage


@dataclass
class Sent:
    """One body that went out: where it began and how many bytes of it were written."""

    name: str
    start: int
    sent: int


@dataclass
class Hub:
    """What the stand-in serves, what it does wrong, and what it was asked."""

    repo: str
    files: dict[str, bytes]
    commit: str = "c0ffee" + "0" * 34
    token: str | None = None
    cut_at: dict[str, list[int]] = field(default_factory=dict)  # name -> absolute offsets, one a connection
    damaged: dict[str, int] = field(default_factory=dict)  # name -> so many times with one wrong byte
    refused: int = 0  # so many requests get 503 first
    requests: list[str] = field(default_factory=list)
    authorizations: set[str | None] = field(default_factory=set)
    bodies: list[Sent] = field(default_factory=list)
    endpoint: str = ""

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.files[name]).hexdigest()

    def blob_id(self, name: str) -> str:
        content = self.files[name]
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def information(self) -> dict[str, object]:
        siblings = []
        for name, content in self.files.items():
            entry: dict[str, object] = {
                "rfilename": name,
                "size": len(content),
                "blobId": self.blob_id(name),
            }
            if len(content) >= LARGE:
                entry["lfs"] = {"sha256": self.sha256(name), "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        return {"id": self.repo, "modelId": self.repo, "sha": self.commit, "siblings": siblings, "tags": []}


class Handler(BaseHTTPRequestHandler):
    """Serves the hub that a subclass names."""

    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        self.hub.authorizations.add(self.headers.get("Authorization"))
        if self.hub.refused > 0:
            self.hub.refused -= 1
            return self.plain(503, b"try later")
        if self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self.plain(401, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        path = self.path.partition("?")[0]
        if re.fullmatch(
            rf"/api/models/{re.escape(self.hub.repo)}(/revision/(main|{self.hub.commit}))?", path
        ):
            return self.plain(
                200, json.dumps(self.hub.information()).encode(), {"Content-Type": "application/json"}
            )
        resolve = re.fullmatch(rf"/{re.escape(self.hub.repo)}/resolve/{self.hub.commit}/(.+)", path)
        if resolve and resolve[1] in self.hub.files:
            return self.resolved(resolve[1], body)
        stored = re.fullmatch(r"/storage/(.+)", path)
        if stored and stored[1] in self.hub.files:
            return self.content(stored[1], body)
        code = "RevisionNotFound" if path.startswith(f"/api/models/{self.hub.repo}/") else "RepoNotFound"
        return self.plain(404, b"", {"X-Error-Code": code})

    def plain(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def resolved(self, name: str, body: bool) -> None:
        if len(self.hub.files[name]) < LARGE:
            return self.content(name, body)
        self.send_response(302)
        self.send_header("Location", f"{self.hub.endpoint}/storage/{name}")
        self.send_header("X-Repo-Commit", self.hub.commit)
        self.send_header("X-Linked-Etag", f'"{self.hub.sha256(name)}"')
        self.send_header("X-Linked-Size", str(len(self.hub.files[name])))
        # What makes the library take the xet protocol when that is not switched off.
        self.send_header("X-Xet-Hash", "0" * 64)
        self.send_header("Link", f'<{self.hub.endpoint}/no-xet-here>; rel="xet-auth"')
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def content(self, name: str, body: bool) -> None:
        content = self.hub.files[name]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        if body and self.hub.damaged.get(name, 0) > 0:
            self.hub.damaged[name] -= 1
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{self.hub.blob_id(name)}"')
        self.send_header("X-Repo-Commit", self.hub.commit)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if not body:
            return
        cuts = self.hub.cut_at.get(name, [])
        end = cuts.pop(0) if cuts else len(content)
        record = Sent(name, start, 0)
        self.hub.bodies.append(record)
        try:
            for offset in range(start, end, 1 << 16):
                piece = content[offset : min(offset + (1 << 16), end)]
                self.wfile.write(piece)
                record.sent += len(piece)
            self.wfile.flush()
        except (BrokenPipeError, ConnectionResetError):
            pass
        if end < len(content):
            self.close_connection = True


def serve(hub: Hub) -> Callable[[], None]:
    """Serve ``hub`` on a free port of loopback, set its ``endpoint``, and return what stops it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    return stop
