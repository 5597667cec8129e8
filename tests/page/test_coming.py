"""The page of a server that cannot speak yet: how far its weights and its model are, and that speech follows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from arriving_weights import GB, ArrivingWeights
from page.opened import Opened, opened
from stand_in_engine import Service, service


@pytest.fixture
def early(arriving: ArrivingWeights) -> Iterator[Service]:
    """A server without weights."""
    with service(weights=arriving.weights, usual_s=3600.0) as started:
        yield started


def share(page: Opened) -> float:
    """What the bar shows, and what a screen reader says of it; -1 where nobody knows."""
    return float(page.get("coming-bar").evaluate("(bar) => bar.position"))


def test_the_bar_moves_while_weights_arrive_and_speech_follows_without_a_reload(
    browser: Browser, early: Service, arriving: ArrivingWeights
) -> None:
    with opened(browser, early.port) as page:
        expect(page.get("status-word")).to_have_text("Fetching the weights")
        bar = page.page.get_by_role("progressbar", name="The weights are on their way:")
        expect(bar).to_be_visible()
        expect(page.get("coming-told")).to_have_text("2.00 GB of 4.00 GB · 10.0 MB/s · about 3 min left")
        assert share(page) == 0.5
        # What changes all the time is not announced all the time.
        expect(page.get("status-reason")).to_have_text("")
        arriving.tell(done=3 * GB, remaining_s=90.0)
        expect(page.get("coming-told")).to_have_text("3.00 GB of 4.00 GB · 10.0 MB/s · about 90 s left")
        assert share(page) == 0.75
        arriving.tell(rate=0.0, remaining_s=None)
        expect(page.get("coming-told")).to_contain_text("nothing arrives at the moment")
        arriving.tell(state="verifying")
        expect(page.get("coming-title")).to_have_text("The weights are being checked:")
        assert share(page) == -1
        early.engine.go.clear()
        arriving.arrive()
        expect(page.get("coming-title")).to_have_text("The model is being loaded:")
        expect(page.get("coming-told")).to_contain_text("about 60 min left")
        assert 0 <= share(page) < 0.1
        early.engine.go.set()
        expect(page.get("status-word")).to_have_text("Ready")
        expect(page.get("coming")).to_be_hidden()
        page.wait_for_voices()
        page.get("voice").select_option("vivian")
        page.play("Good morning.")
        page.wait_for_state("Finished")
        assert len(page.sound()) > 0


def test_a_download_that_failed_is_told_with_the_way_out(
    browser: Browser, early: Service, arriving: ArrivingWeights
) -> None:
    arriving.tell(state="failed", error="the repository is gated <b>")
    with opened(browser, early.port) as page:
        expect(page.get("status-word")).to_have_text("The weights did not arrive")
        expect(page.get("status-reason")).to_contain_text("the repository is gated <b>")
        expect(page.get("status-reason")).to_contain_text("start the download again")
        expect(page.get("coming")).to_be_hidden()
        arriving.tell(beat=0.0)
        expect(page.get("status-word")).to_have_text("The download has fallen silent")
        arriving.state_file.unlink()
        expect(page.get("status-word")).to_have_text("No weights")


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_the_bar_fits_a_narrow_screen_and_keeps_nobody_out(
    browser: Browser, early: Service, colours: str
) -> None:
    screen = {"width": 320, "height": 640}
    with opened(browser, early.port, color_scheme=colours, viewport=screen, locale="zh-CN") as page:
        expect(page.get("coming-told")).to_have_text("2.00 GB / 4.00 GB · 每秒 10.0 MB · 约剩 3 分钟")
        assert page.page.evaluate("document.documentElement.scrollWidth") == 320
        assert page.accessibility() == []
        page.get("other-language").click()
        expect(page.get("coming-title")).to_have_text("The weights are on their way:")
