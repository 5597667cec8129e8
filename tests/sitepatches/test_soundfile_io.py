"""The file that the torchaudio patch adds: what save writes, soundfile reads, and the other way round."""

from __future__ import annotations

import io
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loose_module import loose_module

RATE = 24_000

#: The very file that the patch puts into torchaudio, imported by itself.
added = loose_module(
    Path(str(resources.files("qwen3_tts_service.sitepatches") / "patches" / "torchaudio_soundfile_io.py"))
)
load, save = added.load, added.save


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 1.8 - 0.9


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_2d_round_trip_against_soundfile(tmp_path: Path, channels: int, channels_first: bool) -> None:
    path = tmp_path / "a.wav"
    samples = noise(channels, 100)
    save(path, samples if channels_first else samples.t(), RATE, channels_first=channels_first)
    read, rate = soundfile.read(path, dtype="float32", always_2d=True)
    assert rate == RATE
    np.testing.assert_array_equal(read, samples.t().numpy())
    back, rate = load(path, channels_first=channels_first)
    assert rate == RATE
    assert back.dtype == torch.float32
    assert back.is_contiguous()
    assert torch.equal(back, samples if channels_first else samples.t())


@pytest.mark.parametrize("channels_first", [True, False])
def test_1d_is_mono(tmp_path: Path, channels_first: bool) -> None:
    save(tmp_path / "a.wav", noise(100), RATE, channels_first=channels_first)
    assert load(tmp_path / "a.wav")[0].shape == (1, 100)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_becomes_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    samples = noise(1, 100).to(dtype).requires_grad_()
    save(tmp_path / "a.wav", samples, RATE)
    assert soundfile.info(tmp_path / "a.wav").subtype == "FLOAT"
    assert torch.equal(load(tmp_path / "a.wav")[0], samples.detach().float())


@pytest.mark.parametrize(
    ("dtype", "subtype"),
    [
        (torch.uint8, "PCM_U8"),
        (torch.int16, "PCM_16"),
        (torch.int32, "PCM_32"),
        (torch.float32, "FLOAT"),
        (torch.float64, "DOUBLE"),
    ],
)
def test_wav_holds_the_tensors_own_type(tmp_path: Path, dtype: torch.dtype, subtype: str) -> None:
    samples = noise(1, 200)
    if not dtype.is_floating_point:
        limits = torch.iinfo(dtype)
        samples = torch.linspace(limits.min, limits.max, 200, dtype=torch.float64)[None]
    samples = samples.to(dtype)
    save(tmp_path / "a.wav", samples, RATE)
    assert soundfile.info(tmp_path / "a.wav").subtype == subtype
    back, _ = load(tmp_path / "a.wav", normalize=False)
    assert torch.equal(back.to(dtype), samples)
    if not dtype.is_floating_point:
        assert back.dtype == dtype


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("a.wav", {"bits_per_sample": 8}, ("WAV", "PCM_U8")),
        ("a.wav", {"bits_per_sample": 16}, ("WAV", "PCM_16")),
        ("a.wav", {"encoding": "PCM_S"}, ("WAV", "PCM_32")),
        ("a.wav", {"encoding": "PCM_S", "bits_per_sample": 24}, ("WAV", "PCM_24")),
        ("a.wav", {"encoding": "pcm_u"}, ("WAV", "PCM_U8")),
        ("a.wav", {"encoding": "PCM_F", "bits_per_sample": 64}, ("WAV", "DOUBLE")),
        ("a.wav", {"encoding": "ULAW"}, ("WAV", "ULAW")),
        ("a.wav", {"encoding": "ALAW", "bits_per_sample": 8}, ("WAV", "ALAW")),
        ("a.flac", {}, ("FLAC", "PCM_16")),
        ("a.flac", {"bits_per_sample": 24}, ("FLAC", "PCM_24")),
        ("a.flac", {"bits_per_sample": 8}, ("FLAC", "PCM_S8")),
        ("a.ogg", {}, ("OGG", "VORBIS")),
        ("a.ogg", {"encoding": "opus"}, ("OGG", "OPUS")),
        ("a.opus", {}, ("OGG", "OPUS")),
        ("a.mp3", {}, ("MP3", "MPEG_LAYER_III")),
        ("a.aiff", {"bits_per_sample": 24}, ("AIFF", "PCM_24")),
        ("a.sph", {"encoding": "PCM_S", "bits_per_sample": 16}, ("NIST", "PCM_16")),
        ("a.audio", {"format": "flac"}, ("FLAC", "PCM_16")),
        ("a.wav", {"format": "FLAC"}, ("FLAC", "PCM_16")),
    ],
)
def test_format_encoding_and_bits(
    tmp_path: Path, name: str, arguments: dict[str, object], expected: tuple[str, str]
) -> None:
    samples = torch.sin(torch.arange(RATE) * 0.05)[None] * 0.5
    save(str(tmp_path / name), samples, RATE, **arguments)
    info = soundfile.info(tmp_path / name)
    assert (info.format, info.subtype, info.samplerate) == (*expected, RATE)
    back, _ = load(tmp_path / name)
    assert abs(back.std() - samples.std()) < 0.02


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("a.wav", {"encoding": "PCM_S", "bits_per_sample": 8}, "WAV cannot hold"),
        ("a.wav", {"encoding": "PCM_U", "bits_per_sample": 16}, "WAV cannot hold"),
        ("a.wav", {"encoding": "PCM_F", "bits_per_sample": 16}, "WAV cannot hold"),
        ("a.wav", {"encoding": "MYSTERY"}, "WAV cannot hold"),
        ("a.wav", {"bits_per_sample": 64}, "WAV cannot hold"),
        ("a.wav", {"bits_per_sample": 12}, "bits_per_sample must be one of"),
        ("a.flac", {"bits_per_sample": 32}, "FLAC cannot hold"),
        ("a.ogg", {"bits_per_sample": 16}, "OGG cannot hold"),
        ("a.docx", {}, "Unknown audio format 'docx'"),
        ("a", {}, "has no extension"),
        ("a.wav", {"sample_rate": 0}, "sample_rate must be positive"),
        ("a.wav", {"src": torch.zeros(1, 1, 1)}, "Expected 1D or 2D"),
        ("a.wav", {"src": np.zeros((1, 8))}, "Expected src to be a torch.Tensor"),
        ("a.wav", {"src": torch.zeros(1, 8, dtype=torch.int64)}, "Cannot save torch.int64"),
    ],
)
def test_wrong_arguments_are_value_errors(
    tmp_path: Path, name: str, arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        save(tmp_path / name, **({"src": noise(1, 8), "sample_rate": RATE} | arguments))
    assert not (tmp_path / name).exists()


def test_integer_files_clip_instead_of_wrapping(tmp_path: Path) -> None:
    save(tmp_path / "a.wav", torch.tensor([[2.0, -2.0, 1.0, -1.0]]), RATE, bits_per_sample=16)
    read, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert read.tolist() == [32767, -32768, 32767, -32768]


@settings(max_examples=60, deadline=None)
@given(length=st.integers(0, 50), offset=st.integers(0, 60), count=st.integers(-1, 60))
def test_offset_and_count_are_a_slice(length: int, offset: int, count: int) -> None:
    samples, file = noise(2, length), io.BytesIO()
    save(file, samples, RATE, format="wav")
    file.seek(0)
    part, _ = load(file, frame_offset=offset, num_frames=count)
    assert torch.equal(part, samples[:, offset:] if count == -1 else samples[:, offset : offset + count])


@pytest.mark.parametrize("arguments", [{"frame_offset": -1}, {"num_frames": -2}])
def test_wrong_slices_are_value_errors(tmp_path: Path, arguments: dict[str, int]) -> None:
    save(tmp_path / "a.wav", noise(1, 8), RATE)
    with pytest.raises(ValueError, match=next(iter(arguments))):
        load(tmp_path / "a.wav", **arguments)


class Pipe:
    """A file-like object without seek, as a socket or a pipe is."""

    def __init__(self, content: bytes = b"") -> None:
        self.buffer = io.BytesIO(content)
        self.read = self.buffer.read
        self.write = self.buffer.write


@pytest.mark.parametrize("container", ["wav", "flac", "ogg"])
def test_file_objects(container: str) -> None:
    samples = noise(1, 5000)
    file, pipe = io.BytesIO(), Pipe()
    save(file, samples, RATE, format=container)
    save(pipe, samples, RATE, format=container)
    assert soundfile.info(io.BytesIO(pipe.buffer.getvalue())).format == container.upper()
    file.seek(0)
    from_file, _ = load(file)
    from_pipe, _ = load(Pipe(file.getvalue()))
    assert from_file.shape == (1, 5000)
    assert torch.equal(from_file, from_pipe)
    with pytest.raises(ValueError, match="format is required"):
        save(io.BytesIO(), samples, RATE)


def test_unreadable_and_unwritable_are_runtime_errors(tmp_path: Path) -> None:
    (tmp_path / "no.wav").write_bytes(b"no audio")
    for source in (tmp_path / "no.wav", tmp_path / "absent.wav", "http://localhost/a.wav", io.BytesIO(b"no")):
        with pytest.raises(RuntimeError, match="Failed to load audio"):
            load(source)
    with pytest.raises(RuntimeError, match="Failed to save audio"):
        save(tmp_path / "absent" / "a.wav", noise(1, 8), RATE)


def test_arguments_without_effect_are_named(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="compression is ignored"):
        save(tmp_path / "a.wav", noise(1, 8), RATE, compression=5)
    with pytest.warns(UserWarning, match="backend='sox' is ignored"):
        load(tmp_path / "a.wav", backend="sox")
