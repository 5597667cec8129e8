"""The files of a synthetic checkpoint: layout, geometry, tokenizer, determinism."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qwen_tts.core.models import Qwen3TTSConfig, Qwen3TTSForConditionalGeneration
from qwen_tts.core.tokenizer_12hz.configuration_qwen3_tts_tokenizer_v2 import Qwen3TTSTokenizerV2Config
from qwen_tts.core.tokenizer_12hz.modeling_qwen3_tts_tokenizer_v2 import Qwen3TTSTokenizerV2Model
from safetensors import safe_open
from transformers import AutoTokenizer

from qwen3_tts_service.checkpoints import synthetic
from qwen3_tts_service.checkpoints.geometry import Geometry, codec_config, model_config
from qwen3_tts_service.errors import CheckpointError


def hashes(directory: Path) -> dict[str, str]:
    return {
        str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }


def test_has_the_published_layout(tiny_checkpoint: Path) -> None:
    assert set(hashes(tiny_checkpoint)) == {
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors",
        "speech_tokenizer/config.json",
        "speech_tokenizer/model.safetensors",
        "speech_tokenizer/preprocessor_config.json",
        "synthetic.json",
        "tokenizer_config.json",
        "vocab.json",
    }


def test_weights_have_the_published_types(tiny_checkpoint: Path) -> None:
    for file, dtype in (("model", "BF16"), ("speech_tokenizer/model", "F32")):
        with safe_open(tiny_checkpoint / f"{file}.safetensors", "pt") as tensors:
            names = list(tensors.keys())
            assert {tensors.get_slice(name).get_dtype() for name in names} == {dtype}


def test_other_users_can_read_the_weights(tiny_checkpoint: Path) -> None:
    for file in tiny_checkpoint.rglob("*.safetensors"):
        assert file.stat().st_mode & 0o044 == 0o044


def test_same_seed_same_bytes_other_seed_other_weights(tiny_checkpoint: Path, tmp_path: Path) -> None:
    again = synthetic.write(tmp_path / "again", geometry="tiny", model_type="custom_voice", seed=0)
    assert hashes(again) == hashes(tiny_checkpoint)
    other = hashes(synthetic.write(tmp_path / "other", geometry="tiny", model_type="custom_voice", seed=1))
    differing = {name for name, digest in hashes(tiny_checkpoint).items() if other[name] != digest}
    assert differing == {"model.safetensors", "speech_tokenizer/model.safetensors", "synthetic.json"}


def test_says_that_it_is_noise(tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert synthetic.is_synthetic(tiny_checkpoint)
    assert not synthetic.is_synthetic(tmp_path)
    marker = json.loads((tiny_checkpoint / "synthetic.json").read_text())
    assert {key: marker[key] for key in ("synthetic", "geometry", "type", "seed")} == {
        "synthetic": True,
        "geometry": "tiny",
        "type": "custom_voice",
        "seed": 0,
    }
    assert "noise" in json.loads((tiny_checkpoint / "config.json").read_text())["synthetic"]


def test_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("weights")
    with pytest.raises(CheckpointError, match="not an empty directory"):
        synthetic.write(tmp_path, geometry="tiny", model_type="base", seed=0)
    assert (tmp_path / "precious").read_text() == "weights"


def test_unknown_geometry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'3b': choose from tiny, 0\.6b, 1\.7b"):
        synthetic.write(tmp_path / "x", geometry="3b", model_type="base", seed=0)  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("geometry", "hidden", "mlp", "projection"),
    [("0.6b", 1024, 3072, None), ("1.7b", 2048, 6144, (1024, 2048))],
)
def test_real_geometry(geometry: Geometry, hidden: int, mlp: int, projection: tuple[int, int] | None) -> None:
    """The shapes of the published checkpoints, by upstream's own classes without any memory."""
    with torch.device("meta"):
        model = Qwen3TTSForConditionalGeneration(Qwen3TTSConfig(**model_config(geometry, "custom_voice")))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    layer = "talker.model.layers.27."
    assert "talker.model.layers.28.mlp.up_proj.weight" not in shapes
    assert shapes[f"{layer}self_attn.q_proj.weight"] == (16 * 128, hidden)
    assert shapes[f"{layer}self_attn.k_proj.weight"] == (8 * 128, hidden)
    assert shapes[f"{layer}self_attn.q_norm.weight"] == (128,)
    assert shapes[f"{layer}mlp.gate_proj.weight"] == (mlp, hidden)
    assert shapes["talker.model.codec_embedding.weight"] == (3072, hidden)
    assert shapes["talker.model.text_embedding.weight"] == (151936, 2048)
    predictor = "talker.code_predictor."
    assert f"{predictor}model.layers.5.mlp.up_proj.weight" not in shapes
    assert shapes[f"{predictor}model.layers.4.self_attn.q_proj.weight"] == (16 * 128, 1024)
    assert shapes[f"{predictor}model.layers.4.mlp.down_proj.weight"] == (1024, 3072)
    assert shapes[f"{predictor}model.codec_embedding.14.weight"] == (2048, hidden)
    assert shapes[f"{predictor}lm_head.14.weight"] == (2048, 1024)
    assert shapes.get(f"{predictor}small_to_mtp_projection.weight") == projection
    with torch.device("meta"):
        codec = Qwen3TTSTokenizerV2Model(Qwen3TTSTokenizerV2Config(**codec_config(geometry)))
    assert round(sum(p.numel() for p in codec.decoder.parameters()) / 1e6) == 114
    assert codec.decoder.total_upsample == 1920


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_checkpoint)


def test_tokenizer_cuts_prompts_where_upstream_expects(tokenizer: Any) -> None:
    prompt = "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(prompt)["input_ids"]
    assert ids[:3] == [151644, 77091, 198]
    assert ids[-5:] == [151645, 198, 151644, 77091, 198]
    assert tokenizer.decode(ids[3:-5]) == "Hello."
    assert tokenizer("<|im_start|>user\nx")["input_ids"][:3] == [151644, 872, 198]
    assert tokenizer.convert_tokens_to_ids(["<tts_pad>", "<tts_text_bos>", "<tts_text_eod>"]) == [
        151671,
        151672,
        151673,
    ]


@settings(max_examples=50, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_tokenizer_loses_no_text(tokenizer: Any, text: str) -> None:
    # The class of the published tokenizer normalises to NFC.
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == unicodedata.normalize("NFC", text)
