"""A base checkpoint that borrows a CustomVoice one's weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from qwen3_tts_service.checkpoints.load import inspect, load
from qwen3_tts_service.checkpoints.synthetic_base import write


def test_it_is_the_base_checkpoint_of_the_same_seed(
    tiny_checkpoint: Path, base_checkpoint: Path, tmp_path: Path
) -> None:
    written = tmp_path / "base"
    write(written, tiny_checkpoint)
    assert inspect(written).model_type == "base"
    model = load(written, device="cpu", dtype="bf16", cpu_threads=1).upstream.model
    wanted = load_file(base_checkpoint / "model.safetensors")
    found = model.state_dict()
    assert wanted.keys() <= found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
