"""Random-weight checkpoints in the published layout, for tests, demonstrations and benchmarks.

They have the architecture, the files and the speed of the real ones, and they speak noise. Upstream's
``Qwen3TTSModel.from_pretrained`` and :mod:`.load` open them like any other checkpoint; what marks them is the
file ``synthetic.json`` and the entry ``synthetic`` in ``config.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from . import text_tokenizer
from .geometry import (
    GEOMETRIES,
    MODEL_TYPES,
    SIZES,
    Geometry,
    ModelType,
    codec_config,
    feature_extractor_config,
    generation_config,
    model_config,
)

if TYPE_CHECKING:
    import torch

#: Goes up when the same seed gives other bytes.
GENERATOR_VERSION = 1
MARKER = "synthetic.json"
NOTICE = "Random weights: this checkpoint speaks noise. It is for tests and demonstrations."


def is_synthetic(path: Path | str) -> bool:
    """Whether the checkpoint directory holds random weights."""
    return (Path(path) / MARKER).is_file()


def write(directory: Path | str, *, geometry: Geometry, model_type: ModelType, seed: int = 0) -> Path:
    """Write a checkpoint and return its directory, which is created and must be empty or absent.

    The same arguments give the same bytes under the same versions of torch and of this module
    (``GENERATOR_VERSION``). Weights are bfloat16, the codec's float32, as published. The marker is written
    last: a directory without it is not a checkpoint that this function finished.

    Raises CheckpointError for unknown arguments, or when the directory is in use.
    """
    if geometry not in GEOMETRIES:
        raise CheckpointError(f"unknown geometry {geometry!r}: choose from {', '.join(GEOMETRIES)}")
    if model_type not in MODEL_TYPES:
        raise CheckpointError(f"unknown model type {model_type!r}: choose from {', '.join(MODEL_TYPES)}")
    target = Path(directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target} is not an empty directory; name a new one, nothing is overwritten")
    codec = target / "speech_tokenizer"
    codec.mkdir(parents=True)

    _write_tensors(target, geometry, model_type, seed)
    _write_json(target / "config.json", {**model_config(geometry, model_type), "synthetic": NOTICE})
    _write_json(target / "generation_config.json", generation_config())
    _write_json(codec / "config.json", codec_config(geometry))
    _write_json(codec / "preprocessor_config.json", feature_extractor_config())
    text_tokenizer.write(target)
    marker = {
        "synthetic": True,
        "geometry": geometry,
        "type": model_type,
        "seed": seed,
        "generator_version": GENERATOR_VERSION,
        "notice": NOTICE,
    }
    _write_json(target / MARKER, marker)
    return target


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_tensors(target: Path, geometry: Geometry, model_type: ModelType, seed: int) -> None:
    # Torch and upstream take seconds to import: only here, so that reading a marker costs nothing.
    import torch
    from qwen_tts.core.models import Qwen3TTSConfig, Qwen3TTSForConditionalGeneration
    from qwen_tts.core.models.modeling_qwen3_tts import Qwen3TTSSpeakerEncoder

    from .codec_weights import calibrate_speaker_encoder, codec_state
    from .language_model_weights import LanguageModelWeights

    _save(target / "speech_tokenizer" / "model.safetensors", codec_state(geometry, seed))
    config = Qwen3TTSConfig(**model_config(geometry, model_type))
    with torch.device("meta"):
        shapes = {
            name: tuple(tensor.shape)
            for name, tensor in Qwen3TTSForConditionalGeneration(config).state_dict().items()
        }
    tensors: dict[str, torch.Tensor] = {}
    if model_type == "base":
        speaker_encoder = Qwen3TTSSpeakerEncoder(config.speaker_encoder_config)
        calibrate_speaker_encoder(speaker_encoder, seed)
        tensors = {
            f"speaker_encoder.{name}": tensor.bfloat16()
            for name, tensor in speaker_encoder.state_dict().items()
        }
    weights = LanguageModelWeights(SIZES[geometry], seed)
    for name, shape in shapes.items():
        if name not in tensors:
            tensors[name] = weights.tensor(name, shape).bfloat16()
    _save(target / "model.safetensors", tensors)


def _save(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, file, {"format": "pt"})
    # The library creates files for their owner only; the service runs as another user than the writer.
    file.chmod(0o644)
