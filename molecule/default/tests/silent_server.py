"""Say ready and answer every request for speech with a second of silence: what only a listening gate notices."""

from __future__ import annotations

import io
import json
import os
import socket
import sys
import wave
from http.server import BaseHTTPRequestHandler, HTTPServer


class Silent(BaseHTTPRequestHandler):
    def answer(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        answers = {
            "/v1/models": {"object": "list", "data": [{"id": "silent", "object": "model"}]},
            "/v1/audio/voices": {"voices": [{"id": "nobody"}]},
        }
        ready = {
            "status": "ready",
            "device": "cpu",
            "dtype": "fp32",
            "model": "silent",
            "self_check": {"status": "skipped"},
        }
        self.answer(json.dumps(answers.get(self.path, ready)).encode(), "application/json")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        sound = io.BytesIO()
        with wave.open(sound, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(24_000)
            file.writeframes(bytes(2 * 24_000))
        self.answer(sound.getvalue(), "audio/wav")


if __name__ == "__main__":
    server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Silent)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    server.serve_forever()
