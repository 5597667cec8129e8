"""Voices in the page: heard, taken from files, the microphone and descriptions, renamed and deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from page.opened import RATE, Opened, opened
from qwen3_tts_service.audio import decode
from server_process import wait_for
from stand_in_engine import Service, service
from stand_in_voices import StandInBase, StandInDesign, recording, saved, source


def kept(running: Service) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = running.ask("GET", "/v1/audio/voices").json["voices"]
    return [voice for voice in listed if voice["kind"] not in ("speaker", "alias")]


def fill_in(page: Opened, name: str) -> None:
    page.get("clone-name").fill(name)
    page.get("clone-consent").check()


@pytest.fixture
def cloning(page: Opened) -> Opened:
    page.page.get_by_text("New voice from a recording").click()
    return page


def test_a_voice_of_the_list_is_heard(page: Opened, running: Service) -> None:
    page.page.get_by_label("Try ryan").click()
    page.wait_for_state("Finished")
    assert len(page.sound()) == RATE // 10
    assert running.engine.spoken == ["Hello. This is how I sound when I read to you."]


def test_a_voice_is_taken_from_a_file_and_speaks(cloning: Opened, running: Service, tmp_path: Path) -> None:
    file = tmp_path / "ada.wav"
    file.write_bytes(recording())
    cloning.get("clone-file").set_input_files(file)
    expect(cloning.get("listen-back")).to_have_js_property("duration", 2)
    fill_in(cloning, "Ada")
    cloning.get("clone-said").fill("What Ada says.")
    cloning.page.locator("#cloning [type=submit]").click()
    expect(cloning.get("clone-told")).to_have_text("“Ada” is saved.")
    [voice] = kept(running)
    told = running.ask("GET", f"/v1/audio/voices/{voice['id']}").json
    assert (told["name"], told["consent"], told["ref_text"]) == ("Ada", True, "What Ada says.")
    cloning.get("voice").select_option("Ada")
    cloning.play("Good morning.")
    cloning.wait_for_state("Finished")
    # The stand-in speaks with samples of the recording.
    heard = decode.decode(recording(), sample_rate=RATE, max_bytes=1 << 20, max_seconds=60, param="audio")
    np.testing.assert_allclose(cloning.sound()[:1024], heard[:1024], atol=1 / 32768)


def test_a_voice_is_taken_from_the_microphone(cloning: Opened, running: Service) -> None:
    cloning.get("record").click()
    expect(cloning.get("record")).to_have_text("Stop recording")
    expect(cloning.get("record-told")).to_contain_text("Recording: 2 s")
    assert float(cloning.get("level").evaluate("(meter) => meter.value")) > 20
    cloning.get("record").click()
    expect(cloning.get("record-told")).to_contain_text("s recorded")
    fill_in(cloning, "Bo")
    cloning.page.locator("#cloning [type=submit]").click()
    expect(cloning.get("clone-told")).to_have_text("“Bo” is saved.")
    [voice] = kept(running)
    assert voice["kind"] == "cloned"


def test_what_the_server_finds_wrong_with_a_recording_is_said(
    cloning: Opened, running: Service, tmp_path: Path
) -> None:
    file = tmp_path / "quiet.wav"
    file.write_bytes(recording(level=0.001))
    cloning.get("clone-file").set_input_files(file)
    fill_in(cloning, "Ada")
    cloning.page.locator("#cloning [type=submit]").click()
    expect(cloning.get("clone-error")).to_contain_text("go nearer to the microphone or turn it up")
    assert kept(running) == []


def test_nothing_is_sent_without_consent(cloning: Opened, running: Service, tmp_path: Path) -> None:
    file = tmp_path / "ada.wav"
    file.write_bytes(recording())
    cloning.get("clone-file").set_input_files(file)
    cloning.get("clone-name").fill("Ada")
    sent: list[str] = []
    cloning.page.on("request", lambda request: sent.append(request.method))
    cloning.page.locator("#cloning [type=submit]").click()
    assert cloning.get("clone-consent").evaluate("(box) => box.matches(':invalid:focus')")
    assert "POST" not in sent


def test_the_voice_that_was_heard_by_its_description_is_the_one_that_is_saved(
    browser: Browser, tmp_path: Path
) -> None:
    design = StandInDesign()
    others = [source("base", StandInBase()), source("design", design)]
    with (
        service(slots=2, more=others, voices_directory=tmp_path) as running,
        opened(browser, running.port) as page,
    ):
        page.wait_for_voices()
        page.page.get_by_text("New voice from a description").click()
        page.get("design-words").fill("A deep, calm voice.")
        page.get("design-listen").click()
        page.wait_for_state("Finished")
        heard = design.said
        assert (heard.instructions, heard.text) == (
            "A deep, calm voice.",
            "Hello. This is how I sound when I read to you.",
        )
        page.get("design-name").fill("Narrator")
        page.page.locator("#designing [type=submit]").click()
        expect(page.get("design-told")).to_have_text("“Narrator” is saved.")
        assert design.said.seed == heard.seed
        [voice] = kept(running)
        assert (voice["name"], voice["kind"]) == ("Narrator", "designed")


def test_a_voice_is_renamed_and_deleted_by_keyboard(page: Opened, running: Service) -> None:
    saved(running)
    page.page.reload()
    page.page.get_by_label("Rename Ada").press("Enter")
    expect(page.get("rename-name")).to_be_focused()
    page.get("rename-name").fill("Grace")
    page.page.keyboard.press("Enter")
    expect(page.page.get_by_label("Try Grace")).to_be_visible()
    expect(page.get("voices-title")).to_be_focused()
    page.page.get_by_label("Delete Grace").press("Enter")
    page.page.keyboard.press("Escape")
    assert [voice["name"] for voice in kept(running)] == ["Grace"]
    page.page.get_by_label("Delete Grace").press("Enter")
    page.page.locator("#confirm [value=ok]").press("Enter")
    wait_for(lambda: kept(running) == [], "the voice to be gone")
    expect(page.page.get_by_label("Try Grace")).to_have_count(0)


def test_names_and_texts_stay_text(page: Opened, running: Service) -> None:
    nasty = "<img src=x onerror=alert(1)><script>alert(1)</script>"
    saved(running, name=nasty)
    page.page.reload()
    expect(page.page.locator("#voice-list strong").first).to_have_text(nasty)
    page.get("voice").select_option("vivian")
    page.play(nasty)
    page.wait_for_state("Finished")
    expect(page.page.locator("#history-list strong")).to_have_text(nasty)
    assert page.page.locator("img[src=x], main script").count() == 0


def test_what_no_model_can_do_is_not_offered(browser: Browser) -> None:
    with service() as running, opened(browser, running.port) as page:
        page.wait_for_voices()
        page.page.get_by_text("New voice from a recording").click()
        expect(page.get("no-cloning")).to_be_visible()
        expect(page.get("cloning")).to_be_hidden()
        page.page.get_by_text("New voice from a description").click()
        expect(page.get("no-designing")).to_be_visible()
