"""Text becomes sound in the page: what is heard, told, stopped, and what goes wrong."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, expect

from page.opened import RATE, Opened, opened
from qwen3_tts_service.audio import pcm
from server_process import STEERED, serving, wait_for
from stand_in_engine import TONE, Service

HEARD = pcm.samples(TONE) / np.float32(32768)


def voiced(page: Opened) -> Opened:
    """With the engine that the test steers, and not with the voice of another model."""
    page.get("voice").select_option("vivian")
    return page


def test_what_is_heard_is_what_the_engine_made(page: Opened, running: Service) -> None:
    running.engine.repeat = 12
    voiced(page).play("Good morning.")
    page.wait_for_state("Finished")
    expect(page.get("clock")).to_have_text("1.2 / 1.2 s")
    np.testing.assert_array_equal(page.sound(), np.tile(HEARD, 12))
    expect(page.get("resume")).to_have_text("Replay")
    page.get("resume").click()
    np.testing.assert_array_equal(page.sound(seamless=True), np.tile(HEARD, 12))
    # It went on to the loudspeaker.
    wait_for(lambda: page.page.evaluate("window.loudest") > 0.15, "sound in the browser's output")
    expect(page.get("finish")).to_have_text("complete")


def test_sound_starts_with_the_first_chunk_and_the_figures_with_it(page: Opened, running: Service) -> None:
    running.engine.repeat, running.engine.hold_at = 5, 2
    running.engine.go.clear()
    voiced(page).play("Good morning.")
    page.wait_for_state("Waiting for more sound…")
    assert running.engine.utterances[0].pieces == 2
    np.testing.assert_array_equal(page.sound(), np.tile(HEARD, 2))
    expect(page.get("first-audio")).to_have_text(re.compile(r"^\d+ ms$"))
    expect(page.get("ratio")).to_have_text(re.compile(r"^\d+\.\d\d$"))
    drawn = page.page.locator("#waveform canvas").first
    assert drawn.evaluate(
        "(canvas) => canvas.getContext('2d').getImageData(0, 0, canvas.width, 40).data.some(Boolean)"
    )
    running.engine.go.set()
    page.wait_for_state("Finished")
    np.testing.assert_array_equal(page.sound(), np.tile(HEARD, 3))


def test_stop_ends_the_work_of_the_server(page: Opened, running: Service) -> None:
    running.engine.repeat, running.engine.hold_at = 5, 2
    running.engine.go.clear()
    voiced(page).play("Good morning.")
    page.wait_for_state("Waiting for more sound…")
    page.get("stop").click()
    page.wait_for_state("Stopped")
    wait_for(lambda: running.engine.utterances[0].left is not None, "the slot to be free")
    assert running.engine.utterances[0].pieces == 2
    expect(page.get("stop")).to_be_disabled()


def test_everything_that_was_chosen_reaches_the_server(page: Opened, running: Service) -> None:
    asked: list[str] = []
    page.page.on("request", lambda sent: asked.append(sent.post_data) if sent.method == "POST" else None)
    page.page.locator("summary").first.click()
    page.get("instructions").fill("cheerful")
    page.get("seed").fill("7")
    page.get("speed").fill("1.5")
    page.get("language").select_option("english")
    page.get("model").select_option("stand-in")
    page.get("voice").select_option("ryan")
    page.get("text").fill("Good morning.")
    page.get("text").press("Control+Enter")
    page.wait_for_state("Finished")
    [body] = asked
    for field in (
        *('"input":"Good morning."', '"model":"stand-in"', '"voice":"ryan"', '"language":"english"'),
        *('"instructions":"cheerful"', '"speed":1.5', '"seed":7', '"response_format":"pcm"'),
    ):
        assert field in body
    expect(page.get("seed-used")).to_have_text("7")


def test_a_long_text_is_played_from_any_of_its_parts(page: Opened, running: Service) -> None:
    levels = {"One.": 0.1, "Two.": 0.2, "Three.": 0.3}
    running.engine.pieces = lambda request: [np.full(RATE, levels[request.text], np.float32)]  # type: ignore[method-assign]
    voiced(page).play("One.\n\nTwo.\n\nThree.")
    page.wait_for_state("Finished")
    expect(page.get("parts-told")).to_have_text("3 parts")
    expect(page.page.locator("#parts button")).to_have_text(["1", "2", "3"])
    page.sound()
    page.page.get_by_label("Play from part 2").click()
    expect(page.page.locator("#parts [aria-current]")).to_have_text("2")
    heard = page.sound(seamless=True)
    assert len(heard) == 2 * RATE
    assert (round(float(heard[500]), 2), round(float(heard[-500]), 2)) == (0.2, 0.3)


def test_the_progress_of_parts_is_told_while_they_are_made(page: Opened, running: Service) -> None:
    running.engine.repeat, running.engine.hold_at = 3, 1
    running.engine.go.clear()
    voiced(page).play("One.\n\nTwo.")
    expect(page.get("parts-told")).to_have_text("Part 1 of 2 is being spoken")
    running.engine.go.set()
    expect(page.get("parts-told")).to_have_text("2 parts")


def test_the_take_is_downloaded_in_other_formats(page: Opened, running: Service) -> None:
    voiced(page).play("Good morning.")
    page.wait_for_state("Finished")
    seed = page.get("seed-used").text_content()
    for kind in ("mp3", "wav"):
        page.get("format").select_option(kind)
        with page.page.expect_download() as started:
            page.get("download").click()
        assert started.value.suggested_filename == f"speech-{seed}.{kind}"
        content = Path(started.value.path()).read_bytes()
        again = running.speak("Good morning.", response_format=kind, seed=int(seed or ""), stream=False)
        assert content == again.content


def test_what_the_server_refuses_is_said_in_its_words(page: Opened) -> None:
    voiced(page).play("Good morning.")
    page.wait_for_state("Finished")
    page.play(5000 * "a")
    expect(page.get("speech-error")).to_contain_text("4096")
    page.wait_for_state("Nothing was spoken")
    expect(page.get("stop")).to_be_disabled()


def test_a_slow_network_makes_pauses_and_loses_nothing(page: Opened, running: Service) -> None:
    running.engine.repeat = 12
    network = page.page.context.new_cdp_session(page.page)
    network.send("Network.enable")
    # Sound needs 48 kB a second.
    limits = {"offline": False, "latency": 50, "downloadThroughput": 24_000, "uploadThroughput": 24_000}
    network.send("Network.emulateNetworkConditions", limits)
    voiced(page).play("Good morning.")
    page.wait_for_state("Finished")
    expect(page.get("clock")).to_have_text("1.2 / 1.2 s")
    np.testing.assert_array_equal(page.sound(), np.tile(HEARD, 12))


def test_a_server_that_goes_down_in_the_middle_is_told_and_comes_back(
    browser: Browser, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serving(tmp_path / "first", program=STEERED, model="/nowhere/steered", port=port) as server:
        server.wait_until_ready()
        with opened(browser, port) as page:
            page.wait_for_voices()
            page.play("as it is heard")
            page.wait_for_state("Speaking")
            server.process.kill()
            server.process.wait()
            expect(page.get("speech-error")).to_have_text(
                "The speech broke off: the connection to the server was lost."
            )
            page.wait_for_state("Broken off")
            expect(page.get("status-word")).to_have_text("Nobody answers at this address")
            with serving(tmp_path / "second", program=STEERED, model="/nowhere/steered", port=port) as second:
                second.wait_until_ready()
                expect(page.get("status-word")).to_have_text("Ready")
                page.play("Good morning.")
                page.wait_for_state("Finished")
                expect(page.get("speech-error")).to_be_hidden()


def test_the_connection_is_closed_when_the_tab_is(browser: Browser, running: Service) -> None:
    running.engine.hold_at = 0
    running.engine.go.clear()
    with opened(browser, running.port) as page:
        page.wait_for_voices()
        voiced(page).play("Good morning.")
        wait_for(lambda: running.engine.utterances, "the request")
        page.page.goto("about:blank")
        wait_for(lambda: running.engine.utterances[0].left is not None, "the slot to be free")
