"""Does the device compute what the CPU computes?

A GPU that runs code for another one (a wrong ``HSA_OVERRIDE_GFX_VERSION``) raises no exception: it returns
NaN or noise. So a fixed prompt runs through the loaded model on its device and, independently, through the
weights of the checkpoint's files on the CPU in float32, and the logits are compared. The reference holds one
layer at a time, so it needs about 200 MiB for the largest checkpoint.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ..checkpoints.load import Checkpoint, LoadedModel, tensor_names
from ..errors import SelfCheckFailed

logger = logging.getLogger(__name__)

#: Largest allowed error: root mean square of the difference of the logits over their standard deviation.
#: Unrelated logits give 1.4. Measured on the CPU with random weights, bfloat16 gives 0.015 (tiny) and
#: 0.019 (0.6b), float32 differs only in the order of summation, by less than 1e-5. The room above
#: is for the larger activations of trained weights and for the summation order of other devices.
TOLERANCES = {torch.bfloat16: 0.1, torch.float32: 0.005}

#: The prompt: text ids (all of them exist in every Qwen tokenizer) over ids of the talker's vocabulary.
_TEXT_IDS = (151644, 77091, 198, 39, 68, 75, 75, 78, 11, 1879, 13, 151645, 198, 151671, 151671, 151671)
_CODEC_IDS = (2154, 2156, 2050, 2157, 2148, 2149, 0, 1, 2, 127, 500, 999, 1000, 1500, 2000, 2047)


@dataclass(frozen=True)
class SelfCheckReport:
    """A passed self-check: the larger error of talker and code predictor, its limit, and the time it took."""

    max_error: float
    tolerance: float
    seconds: float


def check(model: LoadedModel) -> SelfCheckReport:
    """Compare the device's logits with the CPU's. Raises SelfCheckFailed naming the way out."""
    started = time.monotonic()
    tolerance = TOLERANCES[model.dtype]
    reference = _Reference(model.checkpoint)
    with torch.no_grad():
        errors = {
            "talker": _error(_talker_logits(model), reference.talker_logits()),
            "code predictor": _error(_predictor_logits(model), reference.predictor_logits()),
        }
    for part, error in errors.items():
        # Written so that NaN fails too.
        if not error <= tolerance:
            raise SelfCheckFailed(
                f"the {part} computes something else on {model.device} in {_name(model.dtype)} than on the "
                f"CPU: relative error {error:.3g}, allowed {tolerance:g}. The device would speak noise. "
                "On an AMD GPU the usual cause is a wrong HSA_OVERRIDE_GFX_VERSION, or a torch that is not "
                "built for this GPU; correct it (role variable tts_runtime_gfx_override), or set device to cpu"
            )
    report = SelfCheckReport(max(errors.values()), tolerance, time.monotonic() - started)
    logger.info(
        "self-check passed on %s in %s: error %.2g of %g allowed, %.1f s",
        model.device,
        _name(model.dtype),
        report.max_error,
        tolerance,
        report.seconds,
    )
    return report


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _error(logits: torch.Tensor, expected: torch.Tensor) -> float:
    difference = logits.float().cpu() - expected
    return float(difference.pow(2).mean().sqrt() / expected.std())


def _talker_logits(model: LoadedModel) -> torch.Tensor:
    """Logits [positions, vocabulary] of the prompt as the loaded model computes them."""
    talker: Any = model.upstream.model.talker
    text = torch.tensor([_TEXT_IDS], device=model.device)
    codec = torch.tensor([_CODEC_IDS], device=model.device)
    embeddings = talker.text_projection(talker.get_text_embeddings()(text)) + talker.get_input_embeddings()(
        codec
    )
    hidden = talker.model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    logits: torch.Tensor = talker.codec_head(hidden)[0]
    return logits


def _predictor_logits(model: LoadedModel) -> torch.Tensor:
    """Logits [15, codebook size] of one frame, each from its own head, as the loaded model computes them."""
    talker: Any = model.upstream.model.talker
    predictor = talker.code_predictor
    codes = torch.tensor([_CODEC_IDS], device=model.device)
    # The first position holds the talker's hidden state in real life; an embedding will do as a fixed input.
    embeddings = [talker.get_input_embeddings()(codes[:, :2])]
    for group, table in enumerate(predictor.get_input_embeddings()[:-1]):
        embeddings.append(table(codes[:, 6 + group % 10, None]))
    projected = predictor.small_to_mtp_projection(torch.cat(embeddings, dim=1))
    hidden = predictor.model(inputs_embeds=projected, use_cache=False).last_hidden_state[0]
    return torch.stack([head(hidden[group + 1]) for group, head in enumerate(predictor.lm_head)])


class _Reference:
    """The same computations on the CPU in float32, from the checkpoint's files, one layer in memory."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        from qwen_tts.core.models import Qwen3TTSConfig

        self._files: dict[str, Path] = {
            name: file for file in checkpoint.weight_files for name in tensor_names(file)
        }
        self._talker = Qwen3TTSConfig(**checkpoint.config).talker_config
        self._predictor = self._talker.code_predictor_config
        for config in (self._talker, self._predictor):
            config._attn_implementation = "sdpa"

    def talker_logits(self) -> torch.Tensor:
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
        text = self._rows("talker.model.text_embedding.weight", _TEXT_IDS)
        hidden = self._filled(projection, "talker.text_projection.")(text)
        hidden = (hidden + self._rows("talker.model.codec_embedding.weight", _CODEC_IDS))[None]
        positions = torch.arange(hidden.shape[1]).expand(3, 1, -1)
        rotary = Qwen3TTSTalkerRotaryEmbedding(config)(hidden, positions)
        hidden = self._stack(Qwen3TTSTalkerDecoderLayer, config, "talker.model.", hidden, rotary)
        return hidden[0] @ self._tensor("talker.codec_head.weight").T

    def predictor_logits(self) -> torch.Tensor:
        from qwen_tts.core.models.modeling_qwen3_tts import Qwen3TTSDecoderLayer, Qwen3TTSRotaryEmbedding

        config = self._predictor
        prefix = "talker.code_predictor."
        groups = config.num_code_groups - 1
        rows = [self._rows("talker.model.codec_embedding.weight", _CODEC_IDS[:2])]
        for group in range(groups - 1):
            code = _CODEC_IDS[6 + group % 10]
            rows.append(self._rows(f"{prefix}model.codec_embedding.{group}.weight", (code,)))
        hidden = torch.cat(rows)
        if f"{prefix}small_to_mtp_projection.weight" in self._files:
            weight = self._tensor(f"{prefix}small_to_mtp_projection.weight")
            hidden = hidden @ weight.T + self._tensor(f"{prefix}small_to_mtp_projection.bias")
        hidden = hidden[None]
        rotary = Qwen3TTSRotaryEmbedding(config)(hidden, torch.arange(hidden.shape[1])[None])
        hidden = self._stack(Qwen3TTSDecoderLayer, config, f"{prefix}model.", hidden, rotary)[0]
        return torch.stack(
            [self._tensor(f"{prefix}lm_head.{group}.weight") @ hidden[group + 1] for group in range(groups)]
        )

    def _stack(
        self,
        layer_class: Any,
        config: Any,
        prefix: str,
        hidden: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """Run ``hidden`` [1, positions, hidden] through all layers and the last norm."""
        from qwen_tts.core.models.modeling_qwen3_tts import Qwen3TTSRMSNorm

        for index in range(config.num_hidden_layers):
            with torch.device("meta"):
                layer = layer_class(config, index)
            self._filled(layer, f"{prefix}layers.{index}.")
            hidden = layer(hidden, attention_mask=None, position_embeddings=rotary)[0]
        norm = Qwen3TTSRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        result: torch.Tensor = self._filled(norm, f"{prefix}norm.")(hidden)
        return result

    def _filled(self, module: torch.nn.Module, prefix: str) -> torch.nn.Module:
        module.load_state_dict(
            {name: self._tensor(prefix + name) for name in module.state_dict()}, assign=True
        )
        return module.eval()

    def _tensor(self, name: str) -> torch.Tensor:
        with safe_open(self._files[name], framework="pt") as tensors:
            stored: torch.Tensor = tensors.get_tensor(name)
        return stored.float()

    def _rows(self, name: str, ids: tuple[int, ...]) -> torch.Tensor:
        """Some rows of an embedding, without the gigabyte around them."""
        with safe_open(self._files[name], framework="pt") as tensors:
            table = tensors.get_slice(name)
            return torch.cat([table[row : row + 1] for row in ids]).float()
