"""Serve a checkpoint directory as a hub on loopback of the test host, hold it back until asked, cut one connection.

``hub_on_host.py CONFIGURATION``: JSON with repo, directory, port, token, cut (name -> offsets), gate (no large body
before this file exists) and log (what was asked and sent is written there after every body).
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import ThreadingHTTPServer
from pathlib import Path

from hub_stand_in import LARGE, Handler, Hub


def main(configuration: dict) -> None:
    directory = Path(configuration["directory"])
    files = {
        str(file.relative_to(directory)): file.read_bytes()
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }
    hub = Hub(configuration["repo"], files, token=configuration["token"], cut_at=configuration["cut"])
    hub.endpoint = f"http://127.0.0.1:{configuration['port']}"
    log, gate = Path(configuration["log"]), Path(configuration["gate"])
    writing = threading.Lock()

    class Slow(Handler):
        def content(self, name: str, body: bool) -> None:
            if body and len(self.hub.files[name]) >= LARGE:
                while not gate.exists():
                    time.sleep(0.05)
            super().content(name, body)
            with writing:
                bodies = [[one.name, one.start, one.sent] for one in self.hub.bodies]
                log.write_text(json.dumps({"bodies": bodies, "commit": self.hub.commit}))

    Slow.hub = hub
    ThreadingHTTPServer(("127.0.0.1", configuration["port"]), Slow).serve_forever()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
