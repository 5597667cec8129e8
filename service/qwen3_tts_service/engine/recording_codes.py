"""The codec's encoder in bounded memory: a recording to codes, a few seconds at a time.

Upstream runs the whole recording through its first convolutions, where a minute of sound is a gigabyte and a
half of activations. They are causal, so they give the same values piece by piece when each convolution
remembers the end of what it heard. What follows runs at 25 positions a second and sees the whole recording,
as upstream's does.
"""

from __future__ import annotations

from typing import Any

import torch

from ..errors import CheckpointError

#: Samples that pass the first convolutions at a time: 4 s, a multiple of their stride of 960.
PIECE = 96_000


class RecordingEncoder:
    """Turns samples into codes with the encoder of upstream's ``Qwen3TTSTokenizerV2Model``.

    Source: ``Qwen3TTSTokenizerV2Model.encode`` in qwen_tts 0.1.1 and ``MimiModel.encode`` in transformers.
    Raises CheckpointError for an encoder whose convolutions are not causal.
    """

    def __init__(self, codec: torch.nn.Module) -> None:
        upstream: Any = codec
        config = upstream.encoder.config
        if not config.use_causal_conv or config.pad_mode != "constant":
            raise CheckpointError(
                f"the codec's encoder has use_causal_conv {config.use_causal_conv} and pad_mode "
                f"{config.pad_mode!r}, this service encodes with causal convolutions padded by zeros"
            )
        self._encoder = upstream.encoder
        self._codebooks: int = upstream.encoder_valid_num_quantizers

    @torch.no_grad()
    def encode(self, samples: torch.Tensor) -> torch.Tensor:
        """Codes [frames, 16] of ``samples`` [samples] at 24 kHz; a begun frame of 1920 samples counts."""
        encoder = self._encoder
        past: dict[torch.nn.Module, torch.Tensor] = {}
        pieces = [
            self._convolutions(piece, past) for piece in torch.split(samples[None, None], PIECE, dim=-1)
        ]
        positions = torch.cat(pieces, dim=-1).transpose(1, 2)
        positions = encoder.encoder_transformer(positions, return_dict=True).last_hidden_state
        # Upstream searches all 32 codebooks and drops the last 16.
        codes: torch.Tensor = encoder.quantizer.encode(
            encoder.downsample(positions.transpose(1, 2)), self._codebooks
        )
        return codes[:, 0].transpose(0, 1)

    def _convolutions(self, piece: torch.Tensor, past: dict[torch.nn.Module, torch.Tensor]) -> torch.Tensor:
        """The next ``piece`` [1, 1, samples] through upstream's ``MimiEncoder``; ``past`` goes on with it."""
        hidden = piece
        for layer in self._encoder.encoder.layers:
            if hasattr(layer, "block"):
                branch = hidden
                for part in layer.block:
                    branch = _layer(part, branch, past)
                hidden = _layer(layer.shortcut, hidden, past) + branch
            else:
                hidden = _layer(layer, hidden, past)
        return hidden


def _layer(
    layer: torch.nn.Module, hidden: torch.Tensor, past: dict[torch.nn.Module, torch.Tensor]
) -> torch.Tensor:
    """One layer over the next ``hidden`` [1, channels, positions]; a convolution hears its ``past`` first."""
    convolution = getattr(layer, "conv", None)
    if convolution is None:
        output: torch.Tensor = layer(hidden)
        return output
    [kernel], [stride], [dilation] = convolution.kernel_size, convolution.stride, convolution.dilation
    overlap = (kernel - 1) * dilation + 1 - stride
    before = past.get(layer)
    if before is None:
        before = hidden.new_zeros((1, hidden.shape[1], overlap))
    joined = torch.cat((before, hidden), dim=-1)
    past[layer] = joined[..., joined.shape[-1] - overlap :].clone()
    missing = -hidden.shape[-1] % stride
    if missing:
        # Only the last piece can end within a stride; zeros complete it, as upstream does at every layer.
        joined = torch.nn.functional.pad(joined, (0, missing))
    result: torch.Tensor = convolution(joined)
    return result
