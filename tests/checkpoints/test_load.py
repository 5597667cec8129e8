"""Opening a checkpoint directory: what is wrong with it is named, and what is right ends up where it belongs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen3_tts_service.checkpoints.load import choose_device, choose_dtype, inspect, load
from qwen3_tts_service.errors import CheckpointError, ConfigurationError


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def set_config(directory: Path, **changes: object) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_not_a_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a directory"):
        inspect(tmp_path / "absent")


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "vocab.json", "speech_tokenizer/model.safetensors"]
)
def test_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=f"missing {name}"):
        inspect(copy)


@pytest.mark.parametrize("name", ["model.safetensors", "speech_tokenizer/model.safetensors"])
def test_truncated_weights_are_found(copy: Path, name: str) -> None:
    file = copy / name
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 1)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        inspect(copy)


def test_missing_weight_is_named_and_not_invented(copy: Path) -> None:
    file = copy / "model.safetensors"
    tensors = load_file(file)
    del tensors["talker.model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"talker\.model\.layers\.1\.mlp\.up_proj\.weight"):
        inspect(copy)


@pytest.mark.parametrize(
    ("key", "value"),
    [("model_type", "qwen2"), ("tokenizer_type", "qwen3_tts_tokenizer_25hz"), ("tts_model_type", "singer")],
)
def test_other_kinds_of_model_are_refused(copy: Path, key: str, value: str) -> None:
    set_config(copy, **{key: value})
    with pytest.raises(CheckpointError, match=f"{key} is '{value}'"):
        inspect(copy)


def test_broken_json_is_named(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is not readable JSON"):
        inspect(copy)


def test_sharded_weights_are_read_through_their_index(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "model-00001-of-00001.safetensors")
    names = load_file(copy / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [file.name for file in inspect(copy).weight_files] == ["model-00001-of-00001.safetensors"]


def test_bf16_talker_beside_an_exact_fp32_codec(tiny_checkpoint: Path) -> None:
    model = load(tiny_checkpoint, device="cpu", dtype="bf16", cpu_threads=1)
    assert {parameter.dtype for parameter in model.upstream.model.parameters()} == {torch.bfloat16}
    codec = model.upstream.model.speech_tokenizer
    stored = load_file(tiny_checkpoint / "speech_tokenizer" / "model.safetensors")
    name = "decoder.pre_conv.conv.weight"
    assert torch.equal(codec.model.state_dict()[name], stored[name])
    assert codec.device == torch.device("cpu")


def test_names_of_devices_and_types() -> None:
    assert choose_dtype("auto", torch.device("cpu")) is torch.float32
    assert choose_dtype("auto", torch.device("cuda", 0)) is torch.bfloat16
    assert choose_device("cpu") == torch.device("cpu")
    for device in ("gpu", "cuda:99", "meta"):
        with pytest.raises(ConfigurationError, match=device):
            choose_device(device)
    with pytest.raises(ConfigurationError, match="fp16"):
        choose_dtype("fp16", torch.device("cpu"))


def test_codec_on_a_gpu_that_the_model_does_not_use(tiny_checkpoint: Path) -> None:
    with pytest.raises(ConfigurationError, match="codec_device is gpu"):
        load(tiny_checkpoint, device="cpu", codec_device="gpu")
