"""The build side's modules, and a package index on loopback."""

from __future__ import annotations

import functools
import http.server
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from wheel_files import ROOT

sys.path.insert(0, str(ROOT / "tools"))


@pytest.fixture
def serve_index(tmp_path: Path) -> Iterator[Callable[[list[Path]], str]]:
    """Serve wheels as a simple index; returns its URL."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def serve(wheels: list[Path]) -> str:
        root = tmp_path / f"index{len(servers)}"
        for wheel in wheels:
            name = re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower()
            page = root / name
            page.mkdir(parents=True, exist_ok=True)
            (page / wheel.name).write_bytes(wheel.read_bytes())
            quoted = wheel.name.replace("+", "%2B")
            with (page / "index.html").open("a", encoding="utf-8") as listing:
                listing.write(f'<a href="{quoted}">{wheel.name}</a>\n')
        root.mkdir(exist_ok=True)
        handler = functools.partial(QuietHandler, directory=str(root))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files without a line per request."""

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""
