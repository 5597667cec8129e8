"""Encoders, read back with what clients use: ffmpeg's decoders, libsndfile and the standard library."""

from __future__ import annotations

import gc
import io
import wave
import weakref
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qwen3_tts_service.audio import pcm
from qwen3_tts_service.audio.containers import CONTAINERS, MARK
from qwen3_tts_service.audio.encoders import encoder, wav_header
from qwen3_tts_service.audio.tempo import Tempo
from qwen3_tts_service.speech.formats import CONTENT_TYPES

from .waveforms import RATE, clicks, decoded, loudest_hertz, pieces, shifted, speechlike, tone

#: Samples that a streamed answer's decoder hears before and, at most, in all more than was spoken. Only an
#: MP3's LAME tag or an MP4's edit list could tell a player to cut them off; neither fits a stream.
DELAY = {"mp3": 1105, "aac": 1024, "opus": 0, "flac": 0, "wav": 0}
MORE = {"mp3": 1105 + 2 * 576, "aac": 1024 + 1024, "opus": 0, "flac": 0, "wav": 0}
MAGIC = {"mp3": b"ID3", "opus": b"OggS", "aac": b"\xff\xf1", "flac": b"fLaC", "wav": b"RIFF"}


def encoded(
    audio_format: str, parts: list[pcm.Samples], *, whole: bool = False, marked: bool = True
) -> list[bytes]:
    """What leaves after each piece, and at the end."""
    made = encoder(audio_format, RATE, whole=whole, marked=marked)
    return [*(made.feed(part) for part in parts), made.finish()]


@given(arrays.arrays(np.float32, st.integers(1, 400), elements=st.floats(-2, 2, width=32)))
def test_samples_are_the_waveform_clipped(waveform: np.ndarray) -> None:
    samples = pcm.samples(waveform).astype(np.float64)
    # Half a step of rounding, and that of the float32 product before it; what is louder than full scale is clipped and
    # does not wrap around.
    assert np.abs(samples / 32767 - np.clip(waveform, -32768 / 32767, 1)).max() <= 0.502 / 32767


@pytest.mark.parametrize("audio_format", CONTENT_TYPES)
def test_sound_leaves_with_the_first_frames(audio_format: str) -> None:
    """80 ms at a time: all begin with the first, but aac, whose codec looks further ahead, with the second."""
    left = [len(content) for content in encoded(audio_format, pieces(speechlike(2.0)))]
    assert left[audio_format == "aac"] > 0
    # Nothing is held back for long: 0.4 s of sound is never without bytes.
    assert all(sum(left[start : start + 5]) > 0 for start in range(len(left) - 5))
    # What waits for the end is 0.1 s of sound and what closes the container, by the bytes a second of the rest.
    assert left[-1] <= 0.1 * sum(left) / 2.0 + 1000


@pytest.mark.parametrize("whole", [False, True], ids=["streamed", "whole"])
@pytest.mark.parametrize("audio_format", DELAY)
def test_players_hear_all_of_it_at_its_place(audio_format: str, whole: bool) -> None:
    spoken = speechlike(2.03) / 32768
    content = b"".join(encoded(audio_format, pieces(speechlike(2.03)), whole=whole))
    assert content.startswith(MAGIC[audio_format])
    heard, rate = decoded(content)
    step = rate // RATE
    heard = heard[::step]
    # A whole MP3 tells in its LAME tag what to cut off.
    exact = whole and audio_format == "mp3"
    assert 0 <= len(heard) - len(spoken) <= (0 if exact else MORE[audio_format])
    delay = shifted(spoken, heard)
    assert abs(delay - (0 if exact else DELAY[audio_format])) <= 1
    heard = heard[delay:][: len(spoken)]
    error = heard - spoken[: len(heard)]
    assert np.mean(error**2) < 0.05 * np.mean(spoken**2)


@pytest.mark.parametrize("whole", [False, True], ids=["streamed", "whole"])
@pytest.mark.parametrize("audio_format", ["flac", "wav"])
def test_lossless_formats_lose_nothing(audio_format: str, whole: bool) -> None:
    spoken = speechlike(1.0)
    content = b"".join(encoded(audio_format, pieces(spoken, 777), whole=whole))
    heard, rate = decoded(content)
    assert rate == RATE
    assert np.array_equal(heard * 32768, spoken)


# Not a streamed FLAC: libsndfile looks for the end at a length that is not told.
@pytest.mark.parametrize(
    ("audio_format", "whole"),
    [
        ("mp3", False),
        ("opus", False),
        ("wav", False),
        ("mp3", True),
        ("opus", True),
        ("wav", True),
        ("flac", True),
    ],
)
def test_libsndfile_reads_them_too(audio_format: str, whole: bool) -> None:
    content = b"".join(encoded(audio_format, pieces(tone(1.0)), whole=whole))
    heard, rate = soundfile.read(io.BytesIO(content))
    assert 0.99 < len(heard) / rate < 1.1
    assert loudest_hertz(heard, rate) == pytest.approx(440, abs=1)


@settings(max_examples=30, deadline=None)
@given(
    audio_format=st.sampled_from(sorted(CONTENT_TYPES)),
    cuts=st.lists(st.integers(1, RATE - 1), max_size=12, unique=True),
)
def test_how_it_is_cut_changes_nothing(audio_format: str, cuts: list[int]) -> None:
    """Segments of a text are pieces as well: one encoder goes over all of them."""
    spoken = speechlike(1.0)
    in_frames = b"".join(encoded(audio_format, pieces(spoken)))
    otherwise = b"".join(encoded(audio_format, np.split(spoken, sorted(cuts))))
    if audio_format == "opus":
        # The stream's number is drawn anew for each answer.
        assert np.array_equal(decoded(in_frames)[0], decoded(otherwise)[0])
    else:
        assert in_frames == otherwise


@pytest.mark.parametrize("audio_format", ["mp3", "opus", "aac", "flac"])
def test_no_click_between_pieces_and_a_planted_one_is_found(audio_format: str) -> None:
    hum = tone(1.0, 200)
    heard, rate = decoded(b"".join(encoded(audio_format, pieces(hum))))
    edge = rate // 10
    assert clicks(heard[edge:-edge], rate) == []
    planted = pieces(hum[: RATE // 2]) + pieces(np.roll(hum[: RATE // 2], 40))
    heard, rate = decoded(b"".join(encoded(audio_format, planted)))
    found = clicks(heard[edge:-edge], rate)
    assert found
    assert all(abs(0.1 + second - 0.5) < 0.1 for second in found)


@pytest.mark.parametrize("audio_format", CONTAINERS)
def test_generated_speech_says_so_where_there_is_a_place(audio_format: str) -> None:
    def tags(marked: bool) -> list[str]:
        content = b"".join(encoded(audio_format, pieces(tone(0.5)), marked=marked))
        with av.open(io.BytesIO(content)) as file:
            return [*file.metadata.values(), *file.streams.audio[0].metadata.values()]

    assert (MARK in tags(True)) == (audio_format != "aac")
    assert MARK not in tags(False)


@pytest.mark.parametrize("whole", [False, True], ids=["streamed", "whole"])
def test_a_flac_tells_its_length_where_it_is_known(whole: bool) -> None:
    content = b"".join(encoded("flac", pieces(tone(1.0)), whole=whole))
    with av.open(io.BytesIO(content)) as file:
        assert file.duration == (1_000_000 if whole else None)


@pytest.mark.parametrize("whole", [False, True], ids=["streamed", "whole"])
def test_clients_read_both_wav_headers(whole: bool) -> None:
    spoken = tone(0.2)
    content = b"".join(encoded("wav", pieces(spoken), whole=whole))
    assert content[44:] == pcm.little_endian(spoken)
    with wave.open(io.BytesIO(content)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
        assert file.getnframes() == (4800 if whole else 0xFFFFFFFF // 2)
        assert file.readframes(file.getnframes()) == content[44:]


def test_a_whole_wav_is_libsndfiles_own() -> None:
    file = io.BytesIO()
    soundfile.write(file, tone(0.2), RATE, format="WAV", subtype="PCM_16")
    assert b"".join(encoded("wav", [tone(0.2)], whole=True)) == file.getvalue()


@pytest.mark.parametrize("whole", [False, True], ids=["streamed", "whole"])
def test_no_sound_is_no_fault(whole: bool) -> None:
    empty = {name: b"".join(encoded(name, [], whole=whole)) for name in CONTENT_TYPES}
    assert (empty["pcm"], empty["aac"], empty["wav"]) == (b"", b"", wav_header(RATE, 0))
    for name in ("mp3", "opus", "flac"):
        assert empty[name].startswith(MAGIC[name])


def test_answers_start_no_threads() -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before = threads()
    made = [encoder(name, RATE, whole=False, marked=True) for name in CONTAINERS for _ in range(5)]
    for one in made:
        one.feed(tone(0.08))
    tempo = Tempo(3.0, RATE)
    tempo.feed(tone(0.08))
    assert threads() == before


@pytest.mark.parametrize("audio_format", CONTAINERS)
def test_an_answer_that_is_given_up_frees_what_it_held(audio_format: str) -> None:
    made = encoder(audio_format, RATE, whole=False, marked=True)
    made.feed(tone(0.08))
    file = weakref.ref(made._file)  # type: ignore[attr-defined]
    assert file() is not None
    del made
    gc.collect()
    assert file() is None
