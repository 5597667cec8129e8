"""Weights for the codec (``speech_tokenizer/``) and the speaker encoder: random, calibrated in one pass."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from .calibration import calibrated, coarse
from .geometry import CODE_GROUPS, CODEBOOK_SIZE, SAMPLE_RATE, Geometry, codec_config
from .random_tensors import centred, generator, uniform

#: Standard deviation of the decoded waveform (full scale is 1): loud enough to be heard, 8 sigma to clipping.
WAVEFORM_STD = 0.12
#: Frames of random codes, and seconds of noise, that run through while calibrating.
_FRAMES = 24
_NOISE_SECONDS = 2

#: Layer of the decoder -> size of its output. Branches that are added to a residual stream are smaller, so
#: that the stream stays between 0.3 and 1; their layer scales (below) shrink them further.
_DECODER_TARGETS: tuple[tuple[str, float], ...] = (
    (r"quantizer\.rvq_(first|rest)\.output_proj", 0.5),
    (r"pre_transformer\.input_proj", 0.4),
    (r"pre_transformer\.layers\.\d+\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj", 0.8),
    (r"upsample\.\d+\.1\.(dwconv\.conv|pwconv\d)", 0.7),
    (r"decoder\.\d+\.block\.[234]\.conv2\.conv", 0.33),
    (r"decoder\.6\.conv", WAVEFORM_STD),
    (r"decoder\.\d+\.block\.1\.conv", 0.5),
    (r".*", 0.6),
)
_ENCODER_TARGETS: tuple[tuple[str, float], ...] = (
    (r"encoder\.layers\.\d+\.block\.3\.conv", 0.35),
    (r"encoder_transformer\.layers\.\d+\.self_attn\.[qkvo]_proj", 0.8),
    (r"encoder_transformer\.layers\.\d+\.mlp\.fc\d", 0.8),
    (r".*", 0.6),
)
_LAYER_SCALE = (0.15, 0.25)


def _target(table: tuple[tuple[str, float], ...], name: str) -> float:
    return next(size for pattern, size in table if re.fullmatch(pattern, name))


def _initialise(model: nn.Module, prefix: str, seed: int) -> None:
    """Fill every stored tensor; linear and convolutional ones get their size in the calibration."""
    for short_name, tensor in model.state_dict().items():
        name = f"{prefix}{short_name}"
        last = short_name.rsplit(".", 1)[-1]
        if last == "initialized":
            continue
        if last in {"scale", "gamma"}:
            value = uniform(seed, name, tensor.shape, *_LAYER_SCALE)
        elif last == "cluster_usage":
            value = uniform(seed, name, tensor.shape, 0.5, 2.0)
        elif last in {"alpha", "beta"}:
            value = uniform(seed, name, tensor.shape, -0.3, 0.3)
        elif last == "bias":
            value = centred(seed, name, tensor.shape, 0.02)
        elif "norm" in short_name:
            value = uniform(seed, name, tensor.shape, 0.7, 1.0)
        else:
            fan_in = tensor[0].numel() if tensor.dim() > 1 else 1
            value = centred(seed, name, tensor.shape, fan_in**-0.5)
        tensor.copy_(value)


def _spread_codebooks(model: nn.Module, prefix: str, seed: int) -> None:
    """Codebook vectors are stored as sums over their usage; upstream divides them again."""
    state = model.state_dict()
    for name, tensor in state.items():
        if name.endswith((".embedding_sum", ".embed_sum")):
            usage = state[name.rsplit(".", 1)[0] + ".cluster_usage"]
            # Encoder codebooks lie in the space that they divide, where 0.6 is the size of a residual.
            vectors = centred(seed, f"{prefix}{name}", tensor.shape, 0.6)
            tensor.copy_(vectors * usage[:, None])


def _calibration_noise(seed: int) -> torch.Tensor:
    """A waveform [1, samples] with slow loudness changes, so that frames differ."""
    samples = _NOISE_SECONDS * SAMPLE_RATE
    noise = centred(seed, "calibration noise", (samples,), 0.15)
    envelope = uniform(seed, "calibration envelope", (1, 1, 2 * _NOISE_SECONDS * 5), 0.2, 1.5)
    envelope = torch.nn.functional.interpolate(envelope, size=samples, mode="linear")[0, 0]
    return (noise * envelope)[None]


@torch.no_grad()
def codec_state(geometry: Geometry, seed: int) -> dict[str, torch.Tensor]:
    """Every tensor of ``speech_tokenizer/model.safetensors``, float32 as in the published checkpoints."""
    from qwen_tts.core.tokenizer_12hz.configuration_qwen3_tts_tokenizer_v2 import Qwen3TTSTokenizerV2Config
    from qwen_tts.core.tokenizer_12hz.modeling_qwen3_tts_tokenizer_v2 import Qwen3TTSTokenizerV2Model

    model = Qwen3TTSTokenizerV2Model(Qwen3TTSTokenizerV2Config(**codec_config(geometry))).float().eval()
    _initialise(model, "codec.", seed)
    _spread_codebooks(model, "codec.", seed)

    codes = torch.randint(
        CODEBOOK_SIZE, (1, CODE_GROUPS, _FRAMES), generator=generator(seed, "calibration codes")
    )
    decoder: Any = model.decoder
    with calibrated(decoder, lambda name: _target(_DECODER_TARGETS, name)):
        waveform = decoder(codes)
    last = decoder.decoder[-1].conv
    # A constant in the waveform is not audible and eats headroom.
    last.bias.sub_(coarse(float(waveform.mean())))

    encoder: Any = model.encoder
    with calibrated(encoder, lambda name: _target(_ENCODER_TARGETS, name)):
        encoder.encode(_calibration_noise(seed)[None], return_dict=True)
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def calibrate_speaker_encoder(encoder: nn.Module, seed: int) -> None:
    """Fill and scale the speaker encoder of a base checkpoint in place; its output is like an embedding."""
    from qwen_tts.core.models.modeling_qwen3_tts import mel_spectrogram

    _initialise(encoder, "speaker_encoder.", seed)
    mels = mel_spectrogram(
        _calibration_noise(seed),
        n_fft=1024,
        num_mels=128,
        sampling_rate=SAMPLE_RATE,
        hop_size=256,
        win_size=1024,
        fmin=0,
        fmax=12000,
    ).transpose(1, 2)
    with calibrated(encoder, lambda name: 0.45 if name == "fc" else 0.7):
        encoder(mels)
