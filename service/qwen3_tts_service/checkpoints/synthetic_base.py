"""A synthetic base checkpoint beside a synthetic CustomVoice one of the same size, in seconds.

The two differ in the speaker encoder and in ``config.json``; the gigabytes are linked. It is what
``checkpoints/synthetic.py`` writes for the same geometry and seed.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from . import synthetic
from .codec_weights import calibrate_speaker_encoder
from .geometry import model_config
from .load import tensor_names

_LINKED = (
    "speech_tokenizer",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
)
_SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def write(directory: Path, custom_voice: Path) -> None:
    """Write into ``directory``, which must not exist; it needs ``custom_voice`` as long as it is used."""
    from qwen_tts.core.models import Qwen3TTSConfig
    from qwen_tts.core.models.modeling_qwen3_tts import Qwen3TTSSpeakerEncoder

    source = custom_voice.resolve()
    marker = json.loads((source / synthetic.MARKER).read_text(encoding="utf-8"))
    directory.mkdir(parents=True)
    for name in _LINKED:
        (directory / name).symlink_to(source / name)
    (directory / _SHARDS[0]).symlink_to(source / "model.safetensors")
    config = model_config(marker["geometry"], "base")
    encoder = Qwen3TTSSpeakerEncoder(Qwen3TTSConfig(**config).speaker_encoder_config)
    calibrate_speaker_encoder(encoder, marker["seed"])
    own: dict[str, torch.Tensor] = {
        f"speaker_encoder.{name}": tensor.bfloat16().contiguous()
        for name, tensor in encoder.state_dict().items()
    }
    save_file(own, directory / _SHARDS[1], {"format": "pt"})
    shared = tensor_names(source / "model.safetensors")
    weight_map = dict.fromkeys(sorted(shared), _SHARDS[0]) | dict.fromkeys(own, _SHARDS[1])
    _write_json(directory / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    _write_json(directory / "config.json", {**config, "synthetic": synthetic.NOTICE})
    _write_json(directory / synthetic.MARKER, {**marker, "type": "base"})


def _write_json(file: Path, content: dict[str, object]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
