#!/usr/bin/env python3
"""Take the README's pictures of the page: ``docs/pictures/page-*.png``.

Needs the developer's environment and Debian's Chromium. The page and the server are the real ones; an engine of the
tests stands in for the model, so the sound in the pictures is none that anybody said.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from playwright.sync_api import Browser, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "service")]

from page.conftest import CHROMIUM, OPTIONS  # noqa: E402 - of the tests
from page.opened import opened  # noqa: E402
from qwen3_tts_service.speech.request import SpeechRequest  # noqa: E402
from stand_in_engine import RATE, Service, StandInEngine, service  # noqa: E402
from stand_in_voices import StandInBase, StandInDesign, recording, saved, source  # noqa: E402

TARGET = ROOT / "docs" / "pictures"
SENTENCE = "Good morning. The coffee is ready."
STORY = (
    "The lighthouse stood on a rock that the sea had forgotten. Every evening its keeper climbed the stairs.\n\n"
    "Nobody had asked him to. He counted the steps anyway, and lit the lamp.\n\n"
    "Far out, a ship answered with three short flashes."
)
#: Name -> what kind of screen, and how far down it is looked at, in pixels.
SCREENS = {
    "page-desktop": ({"viewport": {"width": 1200, "height": 1000}, "color_scheme": "light"}, 0),
    "page-phone": (
        {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True},
        335,
    ),
}


def syllables(request: SpeechRequest) -> Iterator[npt.NDArray[np.float32]]:
    """Something of the length and the ups and downs of speech, the same for the same text; a frame at a time."""
    chance = np.random.default_rng(len(request.text))
    seconds = len(request.text) / 16
    time = np.arange(int(seconds * RATE)) / RATE
    loudness, at = np.zeros_like(time), 0.05
    while at < seconds:
        width = chance.uniform(0.08, 0.22)
        loudness += chance.uniform(0.25, 1) * np.exp(-((2.2 * (time - at) / width) ** 2))
        at += width + chance.uniform(0, 0.18)
    waveform = (0.8 * loudness * np.sin(2 * np.pi * 170 * time)).clip(-0.95, 0.95).astype(np.float32)
    yield from (waveform[start : start + 1920] for start in range(0, len(waveform), 1920))


class Syllables(StandInEngine):
    """Speaks them."""

    def pieces(self, request: SpeechRequest) -> Iterator[npt.NDArray[np.float32]]:
        return syllables(request)


def take(browser: Browser, running: Service) -> None:
    """Speak in the page as a person would, and take the pictures."""
    TARGET.mkdir(exist_ok=True)
    for name, (screen, down) in SCREENS.items():
        with opened(browser, running.port, **screen) as found:
            found.wait_for_voices()
            found.get("voice").select_option("vivian")
            found.play(SENTENCE)
            found.wait_for_state("Finished")
            found.play(STORY)
            expect(found.get("clock")).to_have_text(re.compile(r"^4\."))
            found.get("text").evaluate("(field) => field.scrollTo(0, 0)")
            found.page.evaluate(f"window.scrollTo(0, {down})")
            found.page.screenshot(path=TARGET / f"{name}.png")


def main() -> int:
    models = [source("base", StandInBase()), source("design", StandInDesign())]
    first = source("stand-in", Syllables(slots=2))
    with (
        tempfile.TemporaryDirectory() as voices,
        service(slots=2, source=first, more=models, voices_directory=Path(voices)) as running,
        sync_playwright() as playwright,
    ):
        saved(running, name="Ada", language="english")
        saved(running, recording(seed=2), name="Kitchen radio")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        take(browser, running)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
