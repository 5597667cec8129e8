"""One frame on the CPU in float32, from a checkpoint's files and by upstream's layers: what devices must agree with.

One layer is in memory at a time, whatever the checkpoint's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from ..checkpoints.load import Checkpoint, tensor_names


class FrameLogits(NamedTuple):
    """Of a frame whose codes are given: what each of them would have been chosen from."""

    talker: Tensor  # [positions, vocabulary]: of the prompt's last positions, at least of the very last
    predictor: Tensor  # [15, codebook]: of codebooks 1 to 15


class CPUReference:
    """Computes the frame of a fixed prompt.

    ``text_ids`` and ``codec_ids``, equally many, are the prompt: the embeddings of both are added up.
    """

    def __init__(self, checkpoint: Checkpoint, text_ids: Sequence[int], codec_ids: Sequence[int]) -> None:
        from qwen_tts.core.models import Qwen3TTSConfig

        self._text_ids, self._codec_ids = text_ids, codec_ids
        self._files: dict[str, Path] = {
            name: file for file in checkpoint.weight_files for name in tensor_names(file)
        }
        self._talker = Qwen3TTSConfig(**checkpoint.config).talker_config
        self._predictor = self._talker.code_predictor_config
        for config in (self._talker, self._predictor):
            config._attn_implementation = "sdpa"

    def logits(self, codes: Sequence[int]) -> FrameLogits:
        """Of the frame after the prompt, whose 16 codes are ``codes``."""
        hidden = self._talker_hidden()
        return FrameLogits(
            hidden @ self._tensor("talker.codec_head.weight").T, self._predictor_logits(hidden[-1:], codes)
        )

    def _talker_hidden(self) -> Tensor:
        """[positions, hidden]"""
        from qwen_tts.core.models.modeling_qwen3_tts import (
            Qwen3TTSTalkerDecoderLayer,
            Qwen3TTSTalkerResizeMLP,
            Qwen3TTSTalkerRotaryEmbedding,
        )

        config = self._talker
        with torch.device("meta"):
            projection = Qwen3TTSTalkerResizeMLP(
                config.text_hidden_size,
                config.text_hidden_size,
                config.hidden_size,
                config.hidden_act,
                bias=True,
            )
        text = self._rows("talker.model.text_embedding.weight", self._text_ids)
        hidden = self._filled(projection, "talker.text_projection.")(text)
        hidden = (hidden + self._rows("talker.model.codec_embedding.weight", self._codec_ids))[None]
        positions = torch.arange(hidden.shape[1]).expand(3, 1, -1)
        rotary = Qwen3TTSTalkerRotaryEmbedding(config)(hidden, positions)
        return self._stack(Qwen3TTSTalkerDecoderLayer, config, "talker.model.", hidden, rotary)[0]

    def _predictor_logits(self, hidden: Tensor, codes: Sequence[int]) -> Tensor:
        from qwen_tts.core.models.modeling_qwen3_tts import Qwen3TTSDecoderLayer, Qwen3TTSRotaryEmbedding

        config = self._predictor
        prefix = "talker.code_predictor."
        groups = config.num_code_groups - 1
        rows = [hidden, self._rows("talker.model.codec_embedding.weight", codes[:1])]
        for group, code in enumerate(codes[1:groups]):
            rows.append(self._rows(f"{prefix}model.codec_embedding.{group}.weight", (code,)))
        x = torch.cat(rows)
        if f"{prefix}small_to_mtp_projection.weight" in self._files:
            weight = self._tensor(f"{prefix}small_to_mtp_projection.weight")
            x = x @ weight.T + self._tensor(f"{prefix}small_to_mtp_projection.bias")
        x = x[None]
        rotary = Qwen3TTSRotaryEmbedding(config)(x, torch.arange(x.shape[1])[None])
        x = self._stack(Qwen3TTSDecoderLayer, config, f"{prefix}model.", x, rotary)[0]
        return torch.stack(
            [self._tensor(f"{prefix}lm_head.{group}.weight") @ x[group + 1] for group in range(groups)]
        )

    def _stack(
        self, layer_class: Any, config: Any, prefix: str, hidden: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Run ``hidden`` [1, positions, hidden] through all layers and the last norm."""
        from qwen_tts.core.models.modeling_qwen3_tts import Qwen3TTSRMSNorm

        for index in range(config.num_hidden_layers):
            with torch.device("meta"):
                layer = layer_class(config, index)
            self._filled(layer, f"{prefix}layers.{index}.")
            hidden = layer(hidden, attention_mask=None, position_embeddings=rotary)[0]
        norm = Qwen3TTSRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        result: Tensor = self._filled(norm, f"{prefix}norm.")(hidden)
        return result

    def _filled(self, module: torch.nn.Module, prefix: str) -> torch.nn.Module:
        module.load_state_dict(
            {name: self._tensor(prefix + name) for name in module.state_dict()}, assign=True
        )
        return module.eval()

    def _tensor(self, name: str) -> Tensor:
        with safe_open(self._files[name], framework="pt") as tensors:
            stored: Tensor = tensors.get_tensor(name)
        return stored.float()

    def _rows(self, name: str, ids: Sequence[int]) -> Tensor:
        """Some rows of an embedding, without the gigabyte around them."""
        with safe_open(self._files[name], framework="pt") as tensors:
            table = tensors.get_slice(name)
            return torch.cat([table[row : row + 1] for row in ids]).float()
