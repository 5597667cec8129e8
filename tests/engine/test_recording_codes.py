"""Recordings encoded piece by piece: upstream's codes, without upstream's memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_tts_service.checkpoints.load import load
from qwen3_tts_service.engine import recording_codes
from qwen3_tts_service.engine.recording_codes import RecordingEncoder
from qwen3_tts_service.errors import CheckpointError

from .upstream_prompts import recording

#: Samples to one position behind the convolutions.
STRIDE = 960


@pytest.fixture(scope="module")
def codec(base_checkpoint: Path) -> Any:
    """Upstream's codec, with its encoder in double precision."""
    codec: Any = load(base_checkpoint, device="cpu", cpu_threads=1).upstream.model.speech_tokenizer.model
    codec.encoder.double()
    return codec


def upstreams(codec: Any, wave: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        [codes] = codec.encode(wave[None], torch.ones_like(wave[None], dtype=torch.int64)).audio_codes
    result: torch.Tensor = codes
    return result


@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 40 * STRIDE), piece=st.integers(1, 12), seed=st.integers(0, 9))
def test_any_piece_and_length_gives_upstreams_codes(codec: Any, length: int, piece: int, seed: int) -> None:
    """In double precision, where a rounding error does not decide between two codes."""
    wave = torch.from_numpy(recording(2.0, seed=seed)[:length]).double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording_codes, "PIECE", piece * STRIDE)
        codes = RecordingEncoder(codec).encode(wave)
    assert codes.shape == (-(-length // 1920), 16)
    assert torch.equal(codes, upstreams(codec, wave))


def test_a_minute_passes_in_pieces_of_four_seconds(codec: Any) -> None:
    seen: list[int] = []
    encoder = RecordingEncoder(codec)
    convolutions = [
        module for module in codec.encoder.encoder.modules() if isinstance(module, torch.nn.Conv1d)
    ]
    handles = [
        convolution.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape[-1]))
        for convolution in convolutions
    ]
    wave = torch.from_numpy(np.tile(recording(1.0), 60)).double()
    try:
        codes = encoder.encode(wave)
    finally:
        for handle in handles:
            handle.remove()
    assert max(seen) <= 4 * 24_000 + 6
    assert codes.shape == (750, 16)
    assert torch.equal(codes, upstreams(codec, wave))


def test_an_encoder_of_another_kind_is_refused(codec: Any) -> None:
    config = codec.encoder.config
    config.use_causal_conv = False
    try:
        with pytest.raises(CheckpointError, match="use_causal_conv False"):
            RecordingEncoder(codec)
    finally:
        config.use_causal_conv = True
