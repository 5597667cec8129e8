"""One page that is open in a browser, and what a test reads from it and does to it."""

from __future__ import annotations

import base64
import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from playwright.sync_api import Browser, BrowserContext, Page, expect

RATE = 24_000
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
#: What a browser test may wait for, in milliseconds: generous, machines are shared.
PATIENCE_MS = 20_000
expect.set_options(timeout=PATIENCE_MS)

#: Notes every piece of sound that the page hands to the browser and when it shall sound, and taps what leaves towards
#: the loudspeaker. Notes what the content security policy refuses.
_EARS = """
window.heard = []; window.refused = []; window.loudest = 0;
document.addEventListener("securitypolicyviolation", (event) =>
  window.refused.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample} ${event.sourceFile}`));
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (when) {
  const bytes = new Uint8Array(this.buffer.getChannelData(0).slice().buffer);
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  window.heard.push([when, btoa(text), this.context.sampleRate]);
  start.call(this, when);
};
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (to, ...more) {
  if (to instanceof AudioDestinationNode) {
    if (!this.context.tap) {
      this.context.tap = new AnalyserNode(this.context);
      const samples = new Float32Array(this.context.tap.fftSize);
      setInterval(() => {
        this.context.tap.getFloatTimeDomainData(samples);
        window.loudest = Math.max(window.loudest, ...samples);
      }, 20);
    }
    connect.call(this, this.context.tap);
  }
  return connect.call(this, to, ...more);
};
"""


class Opened:
    """A page; ``get`` finds an element by its id."""

    def __init__(self, page: Page, problems: list[str]) -> None:
        self.page = page
        #: What the browser reported as an error.
        self.problems = problems

    def get(self, name: str) -> Any:
        return self.page.locator(f"#{name}")

    def wait_for_voices(self) -> None:
        expect(self.page.locator("#voice-list li").first).to_be_visible()

    def play(self, text: str) -> None:
        self.get("text").fill(text)
        self.get("play").click()

    def wait_for_state(self, state: str) -> None:
        expect(self.get("state")).to_have_text(state)

    def sound(self, *, seamless: bool = False) -> npt.NDArray[np.float32]:
        """What was handed to the browser since the last look, piece after piece.

        Between what comes late there are pauses, on a slow machine too; there is none where it is ``seamless``.
        """
        pieces = self.page.evaluate("window.heard.splice(0)")
        assert pieces, "no sound"
        assert {rate for _, _, rate in pieces} == {RATE}
        waves = [
            (round(when * RATE), np.frombuffer(base64.b64decode(wave), "<f4")) for when, wave, _ in pieces
        ]
        for (at, wave), (next_at, _) in itertools.pairwise(waves):
            assert next_at >= at + len(wave)
            assert not seamless or next_at == at + len(wave)
        return np.concatenate([wave for _, wave in waves])

    def accessibility(self) -> list[str]:
        """What axe finds against WCAG 2.2 AA."""
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
        found = self.page.evaluate(
            "(tags) => axe.run(document, {runOnly: tags, resultTypes: ['violations']})", tags
        )
        return [
            f"{violation['id']}: {node['html']} {node['failureSummary']}"
            for violation in found["violations"]
            for node in violation["nodes"]
        ]


@contextlib.contextmanager
def opened(browser: Browser, port: int, **context: Any) -> Iterator[Opened]:
    """The page in a browser of its own; ``context`` are Playwright's options of one."""
    options = {"locale": "en-GB", "viewport": {"width": 1280, "height": 900}} | context
    with contextlib.closing(browser.new_context(**options)) as alone, tab(alone, port) as found:
        yield found


@contextlib.contextmanager
def tab(context: BrowserContext, port: int) -> Iterator[Opened]:
    """Another tab of that browser. At its end the page must have broken no rule of its own policy."""
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.add_init_script(_EARS)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request", lambda sent: problems.append(sent.url) if f"127.0.0.1:{port}" not in sent.url else None
    )
    page.goto(f"http://127.0.0.1:{port}/")
    yield Opened(page, problems)
    assert page.evaluate("window.refused") == []
    assert problems == []
