"""Keys, history, languages, small screens and people who do not see or point: what surrounds the speaking."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from page.opened import Opened, opened, tab
from page.test_speaking import HEARD
from qwen3_tts_service.api.auth import KeyRing
from stand_in_engine import Service, service
from stand_in_voices import saved

KEYS = KeyRing((("kitchen", hashlib.sha256(b"one").digest()),))


def spoken(page: Opened, text: str = "Good morning.") -> None:
    page.get("voice").select_option("vivian")
    page.play(text)
    page.wait_for_state("Finished")


def test_a_key_is_asked_for_and_kept_for_the_tab(browser: Browser) -> None:
    with service(KEYS) as running, opened(browser, running.port) as page:
        expect(page.get("key")).to_be_visible()
        page.get("key-field").fill("two")
        page.page.keyboard.press("Enter")
        # That one is not known, so it is asked for again.
        expect(page.get("voices-error")).to_contain_text("not known here")
        expect(page.get("key")).to_be_visible()
        page.get("key-field").fill("one")
        page.page.keyboard.press("Enter")
        page.wait_for_voices()
        expect(page.get("voices-error")).to_be_hidden()
        spoken(page)
        page.page.reload()
        page.wait_for_voices()
        assert page.page.evaluate("sessionStorage.length") == 1


def test_the_corner_says_how_the_server_is(page: Opened, running: Service) -> None:
    expect(page.get("status-word")).to_have_text("Ready")
    expect(page.get("status-model")).to_have_text("stand-in · cpu")
    expect(page.get("status-queue")).to_have_text("0 speaking, 0 waiting")
    expect(page.get("notice")).to_contain_text("noise, not speech")
    running.lifecycle.withdraw()
    expect(page.get("status-word")).to_have_text("Going down")
    expect(page.get("status-reason")).to_contain_text("taken out of rotation")


def test_what_was_spoken_is_replayed_without_the_server(page: Opened, running: Service) -> None:
    running.engine.repeat = 3
    spoken(page)
    page.sound()
    page.page.reload()
    page.page.get_by_label("Replay: Good morning.").click()
    page.wait_for_state("Finished")
    np.testing.assert_array_equal(page.sound(seamless=True), np.tile(HEARD, 3))
    assert len(running.engine.utterances) == 1
    page.page.get_by_label("Forget: Good morning.").click()
    expect(page.get("history-empty")).to_be_visible()
    page.page.reload()
    expect(page.get("history-empty")).to_be_visible()


def test_again_is_the_same_request_with_the_same_seed(page: Opened, running: Service) -> None:
    bodies: list[Any] = []
    page.page.on(
        "request", lambda sent: bodies.append(sent.post_data_json) if sent.method == "POST" else None
    )
    spoken(page)
    seed = page.get("seed-used").text_content()
    page.get("text").fill("Something else.")
    page.page.get_by_label("Again with the same seed: Good morning.").click()
    expect(page.get("text")).to_have_value("Good morning.")
    expect(page.page.locator("#history-list li")).to_have_count(2)
    first, second = bodies
    assert second == first | {"seed": int(seed or "")}


def test_two_tabs_speak_and_share_one_history(browser: Browser, running: Service) -> None:
    running.engine.hold_at, running.engine.repeat = 1, 2
    with (
        opened(browser, running.port) as one,
        tab(one.page.context, running.port) as two,
    ):
        running.engine.go.clear()
        for page in (one, two):
            page.wait_for_voices()
            page.get("voice").select_option("vivian")
            page.play("Good morning.")
        two.wait_for_state("Waiting for more sound…")
        running.engine.go.set()
        for page in (one, two):
            page.wait_for_state("Finished")
            np.testing.assert_array_equal(page.sound(), np.tile(HEARD, 2))
            expect(page.page.locator("#history-list li")).to_have_count(2)


@pytest.fixture(params=["light", "dark"])
def small(browser: Browser, running: Service, request: pytest.FixtureRequest) -> Iterator[Opened]:
    """Everything of the page is to be seen, on the narrowest of screens."""
    saved(running, name="A voice with a name of some length " + 20 * "o")
    screen = {"width": 320, "height": 640}
    with opened(browser, running.port, color_scheme=request.param, viewport=screen) as page:
        page.wait_for_voices()
        spoken(page, "One.\n\nTwo. " + 60 * "w")
        expect(page.page.locator("#history-list li")).to_have_count(1)
        page.page.evaluate("document.querySelectorAll('details').forEach((part) => (part.open = true))")
        yield page


def test_a_narrow_screen_needs_no_scrolling_sideways_and_nobody_is_kept_out(small: Opened) -> None:
    assert small.page.evaluate("document.documentElement.scrollWidth") == 320
    assert small.accessibility() == []
    small.page.get_by_label("Delete A voice").click()
    assert small.accessibility() == []
    assert small.page.evaluate("document.documentElement.scrollWidth") == 320


def test_a_field_that_lost_its_label_would_be_found(page: Opened) -> None:
    page.get("text").evaluate("(field) => field.labels[0].remove()")
    assert [found for found in page.accessibility() if found.startswith("label: ")]


def test_who_has_no_pointer_gets_from_the_text_to_the_sound(page: Opened) -> None:
    page.page.keyboard.press("Tab")
    page.page.keyboard.press("Enter")
    expect(page.get("text")).to_be_focused()
    page.page.keyboard.type("Good morning.")
    reached = []
    for _ in range(5):
        page.page.keyboard.press("Tab")
        reached.append(page.page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert reached == ["voice", "language", "model", "SUMMARY", "play"]
    page.page.keyboard.press("Enter")
    page.wait_for_state("Finished")


def test_the_language_is_the_browsers_and_can_be_switched(browser: Browser, running: Service) -> None:
    with opened(browser, running.port, locale="zh-CN") as page:
        page.wait_for_voices()
        expect(page.get("play")).to_have_text("播放")
        assert page.page.evaluate("document.documentElement.lang") == "zh"
        page.get("other-language").click()
        expect(page.get("play")).to_have_text("Play")
        page.page.reload()
        expect(page.get("play")).to_have_text("Play")
        names = page.page.evaluate(
            "import('/page/texts.js').then(({TEXTS}) => Object.values(TEXTS).map((texts) => Object.keys(texts)))"
        )
        assert names[0] == names[1]
