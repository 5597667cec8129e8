"""The page in a real browser: Debian's Chromium, driven by Playwright, against the real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright

from page.opened import Opened, opened
from stand_in_engine import Service, service
from stand_in_voices import StandInBase, StandInDesign, recording, source

CHROMIUM = Path("/usr/bin/chromium")
#: Nothing but the page itself may ask the network for anything.
OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--mute-audio"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
)


# Not for longer than these tests: while it is there its event loop runs, and nobody else can run one in this thread.
@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="package")
def browser(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all of these tests; whoever speaks into its microphone makes noise."""
    assert CHROMIUM.exists(), f"the page's tests need {CHROMIUM}: apt-get install chromium"
    spoken = tmp_path_factory.mktemp("microphone") / "spoken.wav"
    spoken.write_bytes(recording(4.0))
    started = playwright.chromium.launch(
        executable_path=CHROMIUM, args=[*OPTIONS, f"--use-file-for-fake-audio-capture={spoken}"]
    )
    yield started
    started.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Service]:
    """A server with a model of each kind, which keeps voices."""
    others = [source("base", StandInBase()), source("design", StandInDesign())]
    with service(slots=2, more=others, voices_directory=tmp_path / "voices") as started:
        yield started


@pytest.fixture
def page(browser: Browser, running: Service) -> Iterator[Opened]:
    """The page, with everything to choose from; nothing may have gone wrong in it at the end."""
    with opened(browser, running.port) as found:
        found.wait_for_voices()
        yield found
