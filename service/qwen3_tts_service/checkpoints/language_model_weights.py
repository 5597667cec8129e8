"""Weights for the talker and its code predictor, scaled by arithmetic so that they behave.

Every linear layer reads a vector of known size (the norms see to that), so its standard deviation follows
from its fan-in and no data has to pass through 1.7 billion parameters. The residual stream starts at about
0.6 and each of the 2 x layers branches adds the same variance, up to about 0.9 after the last layer.

Random weights alone would never end a sentence: one of 2049 ids is the end of speech. So one attention
group of the first layer is a clock. It attends evenly to everything before it and averages a marker that is
-1 where a text token is read and +1 where a frame is spoken without new text; the end-of-speech logit grows
with the average. Speech therefore lasts about as many frames as the text has bytes (12.5 frames a second),
and the random part of the logit moves the end by a few frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .geometry import (
    CODEBOOK_SIZE,
    CODEC_EOS,
    CODEC_PAD,
    FIRST_SPECIAL_TEXT_ID,
    TTS_BOS,
    TTS_PAD,
    Sizes,
    Stack,
)
from .random_tensors import centred, uniform

#: Standard deviations on the way through the stack.
_CODE_EMBEDDING = 0.15  # sixteen of them are summed for one frame: 0.6
_CONTROL_EMBEDDING = 0.45  # speakers and languages: one position each that must be heard
_TEXT = 0.55
_RESIDUAL = 0.9  # the talker's stream behind its last layer
_PREDICTOR_RESIDUAL = 0.8
_INPUT_NORM = 0.85
_PROJECTED = 0.9  # queries before their norm, keys, values, gates
_LOGITS = 0.7
#: Weight of the talker's last norm: the code predictor reads its output next to embeddings of 0.15.
_TALKER_NORM = 0.5
_PREDICTOR_NORM = 0.9
_PREDICTOR_PROJECTION = 1.2
#: The tts_pad embedding is added to every frame; too large, and all frames look alike.
_PAD_SCALE = 0.3
#: Weights of q_norm and k_norm: attention logits have the square of it as their standard deviation.
_QUERY_KEY_NORM = 1.4

#: Root mean square of silu(z) for z of size 1, and of silu(0.9 z) * 0.9 z' (gate times up).
_SILU_RMS = 0.6
_GATED_RMS = 0.48
#: Root mean square of an average over values of size 1 under such attention; measured 0.5 to 0.7.
_ATTENTION_RMS = 0.6

#: Channels of the residual stream that only the clock writes.
_MARKER, _CLOCK = 0, 1
#: Channel of the text embedding that marks the ids which stand for "no text here".
_NO_TEXT = 0
_MARKER_SIZE = 0.6
#: Channel value for a clock of 1 (only speech before) and the logit of the end of speech there.
_CLOCK_GAIN = 3.0
_EOS_LOGIT = 20.0


@dataclass(frozen=True)
class _StackScales:
    stack: Stack
    input_variance: float
    residual: float

    def branch(self) -> float:
        """What one attention or MLP adds to the residual stream (standard deviation)."""
        return math.sqrt((self.residual**2 - self.input_variance) / (2 * self.stack.layers))


class LanguageModelWeights:
    """Makes each tensor of ``model.safetensors`` but the speaker encoder's from its name and shape."""

    def __init__(self, sizes: Sizes, seed: int) -> None:
        self._sizes = sizes
        self._seed = seed
        self._talker = _StackScales(sizes.talker, 16 * _CODE_EMBEDDING**2 + 0.04, _RESIDUAL)
        self._predictor = _StackScales(sizes.predictor, _CODE_EMBEDDING**2, _PREDICTOR_RESIDUAL)

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """The float32 tensor called ``name``."""
        if name.startswith("talker.code_predictor."):
            return self._predictor_tensor(name, shape)
        if ".layers." in name:
            return self._talker_layer(name, shape)
        if name == "talker.model.norm.weight":
            return self._norm(name, shape, _TALKER_NORM)
        if name == "talker.model.codec_embedding.weight":
            return self._codec_embedding(name, shape)
        if name == "talker.model.text_embedding.weight":
            return self._text_embedding(name, shape)
        if name.startswith("talker.text_projection."):
            return self._text_projection(name, shape)
        if name == "talker.codec_head.weight":
            return self._codec_head(name, shape)
        raise KeyError(f"no rule for the tensor {name}")

    def _linear(self, name: str, shape: tuple[int, ...], gain: float) -> torch.Tensor:
        """Weights [out, in] that turn inputs of size 1 into outputs of size ``gain``."""
        return centred(self._seed, name, shape, gain / math.sqrt(shape[1]))

    def _norm(self, name: str, shape: tuple[int, ...], size: float) -> torch.Tensor:
        return uniform(self._seed, name, shape, 0.8 * size, 1.2 * size)

    def _layer(self, name: str, shape: tuple[int, ...], scales: _StackScales) -> torch.Tensor:
        """A tensor of one decoder layer."""
        part = name.rsplit(".", 2)[1]
        if part in {"q_norm", "k_norm"}:
            return self._norm(name, shape, _QUERY_KEY_NORM)
        if part in {"input_layernorm", "post_attention_layernorm"}:
            return self._norm(name, shape, _INPUT_NORM)
        if part == "o_proj":
            return self._linear(name, shape, scales.branch() / (_ATTENTION_RMS * _PROJECTED))
        if part == "down_proj":
            return self._linear(name, shape, scales.branch() / _GATED_RMS)
        return self._linear(name, shape, _PROJECTED / _INPUT_NORM)

    def _predictor_tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if ".layers." in name:
            return self._layer(name, shape, self._predictor)
        if name.endswith(".model.norm.weight"):
            return self._norm(name, shape, _PREDICTOR_NORM)
        if ".codec_embedding." in name:
            embedding = centred(self._seed, name, shape, _CODE_EMBEDDING)
            embedding[:, [_MARKER, _CLOCK]] = 0.0
            return embedding
        if ".lm_head." in name:
            return self._linear(name, shape, _LOGITS / _PREDICTOR_NORM)
        if name.endswith("small_to_mtp_projection.weight"):
            return self._linear(name, shape, _PREDICTOR_PROJECTION)
        if name.endswith("small_to_mtp_projection.bias"):
            return centred(self._seed, name, shape, 0.02)
        raise KeyError(f"no rule for the tensor {name}")

    def _talker_layer(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        tensor = self._layer(name, shape, self._talker)
        part = name.rsplit(".", 2)[1]
        first = ".layers.0." in name
        head_dim = self._sizes.talker.head_dim
        if part in {"o_proj", "down_proj"}:
            tensor[[_MARKER, _CLOCK]] = 0.0
        if part == "k_proj" and first:
            # Keys of zero: the group attends to all positions alike.
            tensor[:head_dim] = 0.0
        if part == "v_proj" and first:
            tensor[0] = 0.0
            tensor[0, _MARKER] = 1.0
        if part == "o_proj" and first:
            group = self._sizes.talker.heads // self._sizes.talker.kv_heads
            tensor[:, [head * head_dim for head in range(group)]] = 0.0
            tensor[_CLOCK, 0] = _CLOCK_GAIN
        if part == "input_layernorm" and first:
            tensor[_MARKER] = 1.0
        return tensor

    def _codec_embedding(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        embedding = centred(self._seed, name, shape, _CODE_EMBEDDING)
        embedding[CODEBOOK_SIZE:] *= _CONTROL_EMBEDDING / _CODE_EMBEDDING
        embedding[CODEC_PAD] *= _CODE_EMBEDDING / _CONTROL_EMBEDDING
        embedding[:, [_MARKER, _CLOCK]] = 0.0
        # A text token of the prompt stands on codec_pad; the other control ids cancel the tts_pad below them.
        embedding[CODEBOOK_SIZE:, _MARKER] = -_MARKER_SIZE
        return embedding

    def _text_embedding(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        embedding = centred(self._seed, name, shape, 1.0)
        embedding[FIRST_SPECIAL_TEXT_ID:] *= 0.8
        embedding[TTS_PAD] *= _PAD_SCALE
        embedding[:, _NO_TEXT] = 0.0
        embedding[[TTS_PAD, TTS_BOS], _NO_TEXT] = 1.0
        return embedding

    def _text_projection(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name.endswith("bias"):
            bias = centred(self._seed, name, shape, 0.02)
            bias[[_MARKER, _CLOCK]] = 0.0
            return bias
        if name.endswith("linear_fc1.weight"):
            weight = self._linear(name, shape, 1.0)
            weight[:, _NO_TEXT] = 0.0
            weight[_NO_TEXT] = 0.0
            weight[_NO_TEXT, _NO_TEXT] = 1.0
            return weight
        weight = self._linear(name, shape, _TEXT / _SILU_RMS)
        weight[:, _NO_TEXT] = 0.0
        weight[[_MARKER, _CLOCK]] = 0.0
        weight[_MARKER, _NO_TEXT] = _MARKER_SIZE / float(torch.nn.functional.silu(torch.tensor(1.0)))
        return weight

    def _codec_head(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        weight = self._linear(name, shape, _LOGITS / _TALKER_NORM)
        weight[:, _CLOCK] = 0.0
        weight[CODEC_EOS, _CLOCK] = _EOS_LOGIT / _CLOCK_GAIN * _RESIDUAL / _TALKER_NORM
        return weight
