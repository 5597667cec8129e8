"""Recordings that clients send: the good ones, the bad ones, and those made to do harm."""

from __future__ import annotations

import http.server
import io
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_tts_service.audio.decode import decode
from qwen3_tts_service.errors import InvalidValue

from .waveforms import RATE, loudest_hertz, shifted, speechlike, tone

MAX_BYTES = 1_000_000
MAX_S = 10.0


def read(content: bytes, *, max_seconds: float = MAX_S, sample_rate: int = RATE) -> np.ndarray:
    return decode(
        content, sample_rate=sample_rate, max_bytes=MAX_BYTES, max_seconds=max_seconds, param="audio"
    )


def refused(content: bytes, **limits: float) -> str:
    with pytest.raises(InvalidValue) as caught:
        read(content, **limits)  # type: ignore[arg-type]
    assert caught.value.param == "audio"
    assert caught.value.message.startswith("`audio` ")
    assert len(caught.value.message) < 300
    return caught.value.message


def by_libsndfile(samples: np.ndarray, rate: int, kind: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(file, "w", rate, channels, subtype, format=kind) as output:
        # In blocks: libsndfile's Vorbis has no stack for minutes at once.
        for start in range(0, len(samples), rate):
            output.write(samples[start : start + rate])
    return file.getvalue()


def by_ffmpeg(samples: np.ndarray, rate: int, container: str, codec: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def recordings(spoken: np.ndarray) -> dict[str, bytes]:
    """The same in everything that is read."""
    return {
        "wav 8 bit": by_libsndfile(spoken, RATE, "WAV", "PCM_U8"),
        "wav 16 bit": by_libsndfile(spoken, RATE, "WAV", "PCM_16"),
        "wav 24 bit": by_libsndfile(spoken, RATE, "WAV", "PCM_24"),
        "wav 32 bit": by_libsndfile(spoken, RATE, "WAV", "PCM_32"),
        "wav float": by_libsndfile(spoken / 32768, RATE, "WAV", "FLOAT"),
        "wav double": by_libsndfile(spoken / 32768, RATE, "WAV", "DOUBLE"),
        "wav extensible": by_libsndfile(spoken, RATE, "WAVEX", "PCM_16"),
        "mp3": by_libsndfile(spoken, RATE, "MP3"),
        "flac": by_libsndfile(spoken, RATE, "FLAC"),
        "ogg vorbis": by_libsndfile(spoken, RATE, "OGG", "VORBIS"),
        "ogg opus": by_libsndfile(spoken, RATE, "OGG", "OPUS"),
        "m4a aac": by_ffmpeg(spoken, RATE, "ipod", "aac"),
        "m4a alac": by_ffmpeg(spoken, RATE, "ipod", "alac"),
    }


SPOKEN = speechlike(2.0)
GOOD = recordings(SPOKEN)
#: Shorter, for tests that read hundreds of them.
SHORT = recordings(speechlike(0.3))


@pytest.mark.parametrize("name", GOOD)
def test_a_recording_is_heard_as_it_was(name: str) -> None:
    heard = read(GOOD[name])
    spoken = SPOKEN / 32768
    assert heard.dtype == np.float32
    assert abs(len(heard) - len(spoken)) <= 2048
    assert abs(shifted(spoken, heard)) <= 1, "what a codec puts in front is cut off"
    length = min(len(heard), len(spoken))
    assert np.mean((heard[:length] - spoken[:length]) ** 2) < 0.05 * np.mean(spoken**2)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 48_000, 96_000, 192_000])
def test_it_comes_at_the_wanted_rate(rate: int) -> None:
    times = np.arange(rate) / rate
    content = by_libsndfile(0.3 * np.sin(2 * np.pi * 440 * times), rate, "WAV", "FLOAT")
    heard = read(content)
    assert len(heard) == pytest.approx(RATE, abs=1)
    assert loudest_hertz(heard) == pytest.approx(440, abs=0.5)
    assert np.abs(heard).max() == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "FLOAT"])
def test_channels_are_averaged(subtype: str) -> None:
    left = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    both = read(by_libsndfile(np.stack([left, left], 1), RATE, "WAV", subtype))
    one = read(by_libsndfile(np.stack([left, 0 * left], 1), RATE, "WAV", subtype))
    opposite = read(by_libsndfile(np.stack([left, -left], 1), RATE, "WAV", subtype))
    for heard, loudest in ((both, 0.5), (one, 0.25), (opposite, 0.0)):
        assert np.abs(heard).max() == pytest.approx(loudest, abs=0.01)


def test_a_large_upload_is_not_looked_into() -> None:
    message = refused(bytes(MAX_BYTES + 1))
    assert str(MAX_BYTES + 1) in message
    assert str(MAX_BYTES) in message


@pytest.mark.parametrize(
    ("kind", "subtype", "seconds"),
    [("FLAC", None, 3600), ("OGG", "VORBIS", 30), ("OGG", "OPUS", 30), ("MP3", None, 30)],
)
def test_much_sound_in_a_small_file_stops_at_the_limit(kind: str, subtype: str | None, seconds: int) -> None:
    """Silence is almost nothing once compressed."""
    content = by_libsndfile(np.zeros(8000 * seconds, np.int16), 8000, kind, subtype)
    assert len(content) < MAX_BYTES
    assert "longer than 10 s" in refused(content)


def test_exactly_the_limit_is_let_through() -> None:
    assert len(read(GOOD["flac"], max_seconds=2.0)) == 2 * RATE
    assert "longer than 1.999 s" in refused(GOOD["flac"], max_seconds=1.999)


@pytest.mark.parametrize("claimed", [0xFFFFFFFF, 0x7FFFFFFF])
def test_what_a_header_claims_costs_nothing(claimed: int) -> None:
    content = bytearray(GOOD["wav 16 bit"])
    content[40:44] = struct.pack("<I", claimed)
    assert len(read(bytes(content))) == 2 * RATE


def atom(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def m4a_with(replaced: dict[bytes, bytes]) -> bytes:
    """The AAC file with other tables of samples."""

    def rewritten(content: bytes) -> bytes:
        made, position = b"", 0
        while position < len(content):
            size, kind = struct.unpack(">I4s", content[position : position + 8])
            inner = content[position + 8 : position + size]
            if kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
                inner = rewritten(inner)
            made += atom(kind, replaced.get(kind, inner))
            position += size
        return made

    return rewritten(GOOD["m4a aac"])


MANY = 0x7FFFFFF0
TABLES = {
    "a billion samples of no bytes": {b"stsz": struct.pack(">IIII", 0, 0, MANY, 0)},
    "a billion samples of one byte": {
        b"stsz": struct.pack(">III", 0, 1, MANY),
        b"stsc": struct.pack(">IIIII", 0, 1, 1, MANY, 1),
        b"stts": struct.pack(">IIII", 0, 1, MANY, 1),
    },
    "one sample that lasts for ever": {b"stts": struct.pack(">IIII", 0, 1, MANY, MANY)},
    "more entries than there are": {b"stco": struct.pack(">III", 0, MANY, 0)},
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_claim_billions_cost_little(name: str, tmp_path: Path) -> None:
    """In a process of its own, which may have 1 GiB: what it would take more is an error there."""
    (tmp_path / "hostile.m4a").write_bytes(m4a_with(TABLES[name]))
    program = """
import resource, sys, time
from pathlib import Path
from qwen3_tts_service.audio.decode import decode
from qwen3_tts_service.errors import InvalidValue
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode(Path(sys.argv[1]).read_bytes(), sample_rate=24000, max_bytes=10**6, max_seconds=10, param="audio")
except InvalidValue as error:
    print(error)
print("KiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "hostile.m4a")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout.rpartition("KiB")[2]) < 200_000


class Visits(http.server.BaseHTTPRequestHandler):
    paths: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.paths.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(GOOD["wav 16 bit"])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """A server that must not be visited."""
    Visits.paths.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Visits) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/secret.wav"
        server.shutdown()
        thread.join()
    assert Visits.paths == []


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{name}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{name}'\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT2S" minBufferTime="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">'
    '<Period><AdaptationSet mimeType="audio/mp4"><Representation id="1" bandwidth="1"><BaseURL>{name}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\na={name}\n",
    "pls": "[playlist]\nFile1={name}\nNumberOfEntries=1\n",
    "image list": "P6\n# {name}\n1 1\n255\nabc",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_file_that_names_others_opens_none(name: str, elsewhere: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(GOOD["wav 16 bit"])
    for other in (elsewhere, str(secret), f"file:{secret}"):
        assert "cannot be read as wav, mp3, flac, ogg or m4a" in refused(
            PLAYLISTS[name].format(name=other).encode()
        )


def test_an_m4a_whose_sound_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    """A data reference to a path, QuickTime's way of naming another file."""
    secret = tmp_path / "secret.m4a"
    secret.write_bytes(GOOD["m4a aac"])
    alias = struct.pack(">IIHI", 0, 1, 0, 0)
    for kind in (b"url ", b"alis"):
        entry = atom(kind, struct.pack(">I", 0) + str(secret).encode() + b"\0")
        content = m4a_with({b"dinf": atom(b"dref", struct.pack(">II", 0, 1) + entry), b"mdat": alias})
        refused(content)


@pytest.mark.parametrize("content", [b"", b"\0", b"RIFF", b"ID3", b"fLaC", b"OggS", b"\0" * 5000, b"Hello."])
def test_what_is_no_recording_is_named_so(content: bytes) -> None:
    refused(content)


def test_other_media_are_no_recordings() -> None:
    with av.open(made := io.BytesIO(), "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 16
        output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        output.mux(stream.encode(None))
    assert "no audio track" in refused(made.getvalue())
    assert "cannot be read" in refused(by_ffmpeg(tone(1.0), RATE, "matroska", "libopus"))
    assert "cannot be read" in refused(by_libsndfile(SPOKEN, RATE, "AIFF"))
    assert "compressed as adpcm_ms" in refused(by_libsndfile(SPOKEN, RATE, "WAV", "MS_ADPCM"))


@pytest.mark.parametrize("rate", [4000, 384_000])
def test_a_rate_out_of_range_is_named(rate: int) -> None:
    assert f"{rate} samples a second" in refused(by_libsndfile(SPOKEN, rate, "WAV"))


def test_too_many_channels_are_named() -> None:
    assert "16 channels" in refused(by_libsndfile(np.zeros((RATE, 16), np.int16), RATE, "WAV"))


@pytest.mark.parametrize("kind", ["wav 16 bit", "mp3"])
def test_no_sound_is_said(kind: str) -> None:
    refused(by_libsndfile(np.zeros(0, np.int16), RATE, "WAV" if kind.startswith("wav") else "MP3"))


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(poison: float) -> None:
    spoken = (SPOKEN / 32768).astype(np.float32)
    spoken[100] = poison
    assert "NaN" in refused(by_libsndfile(spoken, RATE, "WAV", "FLOAT"))


def test_a_rate_that_changes_is_said() -> None:
    """Two files one after the other."""
    first, second = (by_libsndfile(tone(0.5)[: rate // 2], rate, "MP3") for rate in (24_000, 16_000))
    assert "changes from 24000 to 16000 Hz" in refused(first + second)


def test_a_picture_in_the_file_is_passed_over() -> None:
    """Phones and music programs put covers into recordings."""
    picture = b"\x89PNG\r\n\x1a\n" + bytes(2000)
    frame = b"\0image/png\0\x03\0" + picture
    tag = b"APIC" + struct.pack(">I", len(frame)) + b"\0\0" + frame
    size = bytes((len(tag) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    assert len(read(b"ID3\x03\0\0" + size + tag + GOOD["mp3"])) >= 2 * RATE


def harmless(content: bytes) -> None:
    """Whatever it is, it is a short waveform of numbers, or refused in words."""
    try:
        heard = read(content)
    except InvalidValue:
        return
    assert 0 < len(heard) <= MAX_S * RATE + 1
    assert np.isfinite(heard).all()


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from(sorted(SHORT)), part=st.floats(0, 1))
def test_a_file_cut_anywhere_does_no_harm(name: str, part: float) -> None:
    harmless(SHORT[name][: round(part * len(SHORT[name]))])


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(sorted(SHORT)),
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=30),
    front=st.booleans(),
)
def test_changed_bytes_do_no_harm(name: str, places: list[tuple[float, int]], front: bool) -> None:
    content = bytearray(SHORT[name])
    reach = min(400, len(content)) if front else len(content)
    for place, value in places:
        content[round(place * (reach - 1))] = value
    harmless(bytes(content))


@settings(max_examples=200, deadline=None)
@given(
    magic=st.sampled_from(
        [
            b"",
            b"RIFF\xff\xff\xff\xffWAVE",
            b"ID3\x04\0\0",
            b"\xff\xfb",
            b"fLaC",
            b"OggS\0\x02",
            b"\0\0\0\x18ftypM4A ",
        ]
    ),
    content=st.binary(max_size=4000),
)
def test_random_bytes_do_no_harm(magic: bytes, content: bytes) -> None:
    harmless(magic + content)
