"""Upstream's codec decoder as an oracle."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


def upstream_decoder(checkpoint: Path) -> Any:
    """The decoder of the checkpoint's speech tokenizer, by upstream's own code, fp32 on the CPU."""
    from qwen_tts.core.tokenizer_12hz.configuration_qwen3_tts_tokenizer_v2 import Qwen3TTSTokenizerV2Config
    from qwen_tts.core.tokenizer_12hz.modeling_qwen3_tts_tokenizer_v2 import Qwen3TTSTokenizerV2Decoder

    folder = checkpoint / "speech_tokenizer"
    config = Qwen3TTSTokenizerV2Config(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    decoder = Qwen3TTSTokenizerV2Decoder._from_config(config.decoder_config).float().eval()
    tensors = load_file(folder / "model.safetensors")
    mine = {
        name.removeprefix("decoder."): value for name, value in tensors.items() if name.startswith("decoder.")
    }
    decoder.load_state_dict(mine)
    return decoder


def undivided(decoder: Any, codes: Tensor, *, exact_frames: int = 12) -> tuple[Tensor, float]:
    """Upstream's undivided pass [streams, samples], and how far an exact decoder may be from it.

    That is 1e-4 times the output's standard deviation, or twice upstream's own distance to float64.
    """
    with torch.no_grad():
        wanted = decoder(codes)[:, 0]
        # A few frames of one stream are enough to see how upstream rounds; float64 convolutions take their time.
        exact = copy.deepcopy(decoder).double()(codes[:1, :, :exact_frames])[:, 0]
    rounding = float((wanted[:1, : exact.shape[1]].double() - exact).abs().max())
    return wanted, max(1e-4 * float(wanted.std()), 2 * rounding)
