"""The published geometry once: its channel counts take other paths through the kernels than the tiny one's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from host_needs import needs_compiler
from qwen3_tts_service.checkpoints.codec_weights import codec_state
from qwen3_tts_service.checkpoints.geometry import codec_config
from qwen3_tts_service.codec.streaming import StreamingDecoder

from . import undivided, upstream_decoder

pytestmark = pytest.mark.slow


@needs_compiler
def test_growing_chunks_in_a_batch_equal_one_pass(tmp_path: Path, kernels: Path) -> None:
    folder = tmp_path / "speech_tokenizer"
    folder.mkdir()
    save_file(codec_state("0.6b", 0), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(codec_config("0.6b")), encoding="utf-8")
    upstream = upstream_decoder(tmp_path)
    codes = torch.randint(0, 2048, (2, 16, 22), generator=torch.Generator().manual_seed(3))
    wanted, bound = undivided(upstream, codes, exact_frames=2)
    decoder = StreamingDecoder(upstream, kernels=kernels)
    assert decoder.way == "compiled", decoder.reason
    states = [decoder.new_state(), decoder.new_state()]
    sounds = [decoder.decode(chunk, states) for chunk in codes.split([1, 2, 4, 15], dim=-1)]
    assert (torch.cat(sounds, dim=-1) - wanted).abs().max() <= bound
