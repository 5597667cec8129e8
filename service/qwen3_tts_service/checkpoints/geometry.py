"""What a Qwen3-TTS 12 Hz checkpoint is made of: sizes, special ids, speakers, languages.

The real geometries follow the published checkpoints (config.json of ``Qwen/Qwen3-TTS-12Hz-*``); ``tiny``
has every part of them, the projection in front of the code predictor included, in a size that a single CPU
core runs faster than real time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Geometry = Literal["tiny", "0.6b", "1.7b"]
ModelType = Literal["custom_voice", "voice_design", "base"]

GEOMETRIES: tuple[Geometry, ...] = ("tiny", "0.6b", "1.7b")
MODEL_TYPES: tuple[ModelType, ...] = ("custom_voice", "voice_design", "base")

#: Codebooks of one frame; codebook 0 is the talker's, 1 to 15 the code predictor's.
CODE_GROUPS = 16
#: Entries of one codebook. The talker's vocabulary goes on above it with control ids.
CODEBOOK_SIZE = 2048
TALKER_VOCABULARY = 3072
TEXT_VOCABULARY = 151936
SAMPLE_RATE = 24_000
SAMPLES_PER_FRAME = 1920

#: Ids in the text vocabulary.
IM_START, IM_END = 151644, 151645
TTS_PAD, TTS_BOS, TTS_EOS = 151671, 151672, 151673
#: First id above the ordinary text tokens.
FIRST_SPECIAL_TEXT_ID = 151643

#: Ids in the talker's vocabulary.
CODEC_PAD, CODEC_BOS, CODEC_EOS = 2148, 2149, 2150

LANGUAGE_IDS = {
    "chinese": 2055,
    "english": 2050,
    "german": 2053,
    "italian": 2070,
    "portuguese": 2071,
    "spanish": 2054,
    "japanese": 2058,
    "korean": 2064,
    "french": 2061,
    "russian": 2069,
    "beijing_dialect": 2074,
    "sichuan_dialect": 2062,
}
SPEAKER_IDS = {
    "serena": 3066,
    "vivian": 3065,
    "uncle_fu": 3010,
    "ryan": 3061,
    "aiden": 2861,
    "ono_anna": 2873,
    "sohee": 2864,
    "eric": 2875,
    "dylan": 2878,
}
SPEAKER_DIALECTS = {"dylan": "beijing_dialect", "eric": "sichuan_dialect"}


@dataclass(frozen=True)
class Stack:
    """The shape of one decoder stack."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int

    def config(self) -> dict[str, Any]:
        """The fields that upstream's config classes call these sizes."""
        return {
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "intermediate_size": self.mlp,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
        }


@dataclass(frozen=True)
class Sizes:
    """Everything in which the geometries differ."""

    model_size: str
    talker: Stack
    predictor: Stack
    text_hidden: int
    #: Rotary channels per position axis; half a head in all.
    mrope_section: tuple[int, int, int]
    codec_decoder: dict[str, Any]
    codec_encoder: dict[str, Any]
    speaker_encoder: dict[str, Any]


_CODEC_DECODER = {
    "latent_dim": 1024,
    "codebook_dim": 512,
    "decoder_dim": 1536,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "head_dim": 64,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "num_hidden_layers": 8,
}
_CODEC_ENCODER = {
    "hidden_size": 512,
    "num_filters": 64,
    "intermediate_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "codebook_dim": 256,
    "vector_quantization_hidden_dimension": 256,
    "upsample_groups": 512,
}
_PREDICTOR = Stack(layers=5, hidden=1024, mlp=3072, heads=16, kv_heads=8, head_dim=128)

SIZES: dict[Geometry, Sizes] = {
    "tiny": Sizes(
        model_size="tiny",
        talker=Stack(layers=3, hidden=128, mlp=256, heads=4, kv_heads=2, head_dim=32),
        predictor=Stack(layers=2, hidden=64, mlp=128, heads=4, kv_heads=2, head_dim=16),
        text_hidden=64,
        mrope_section=(6, 5, 5),
        codec_decoder={
            "latent_dim": 64,
            "codebook_dim": 64,
            "decoder_dim": 128,
            "hidden_size": 64,
            "intermediate_size": 128,
            "head_dim": 16,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "num_hidden_layers": 2,
        },
        codec_encoder={
            "hidden_size": 64,
            "num_filters": 8,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 16,
            "codebook_dim": 32,
            "vector_quantization_hidden_dimension": 32,
            "upsample_groups": 64,
        },
        speaker_encoder={
            "enc_channels": [64, 64, 64, 64, 192],
            "enc_attention_channels": 32,
            "enc_se_channels": 32,
        },
    ),
    "0.6b": Sizes(
        model_size="0b6",
        talker=Stack(layers=28, hidden=1024, mlp=3072, heads=16, kv_heads=8, head_dim=128),
        predictor=_PREDICTOR,
        text_hidden=2048,
        mrope_section=(24, 20, 20),
        codec_decoder=_CODEC_DECODER,
        codec_encoder=_CODEC_ENCODER,
        speaker_encoder={},
    ),
    "1.7b": Sizes(
        model_size="1b7",
        talker=Stack(layers=28, hidden=2048, mlp=6144, heads=16, kv_heads=8, head_dim=128),
        predictor=_PREDICTOR,
        text_hidden=2048,
        mrope_section=(24, 20, 20),
        codec_decoder=_CODEC_DECODER,
        codec_encoder=_CODEC_ENCODER,
        speaker_encoder={},
    ),
}


def model_config(geometry: Geometry, model_type: ModelType) -> dict[str, Any]:
    """The content of ``config.json``. Only custom_voice checkpoints have built-in speakers."""
    sizes = SIZES[geometry]
    speakers = SPEAKER_IDS if model_type == "custom_voice" else {}
    return {
        "architectures": ["Qwen3TTSForConditionalGeneration"],
        "model_type": "qwen3_tts",
        "tts_model_type": model_type,
        "tts_model_size": sizes.model_size,
        "tokenizer_type": "qwen3_tts_tokenizer_12hz",
        "im_start_token_id": IM_START,
        "im_end_token_id": IM_END,
        "tts_pad_token_id": TTS_PAD,
        "tts_bos_token_id": TTS_BOS,
        "tts_eos_token_id": TTS_EOS,
        "speaker_encoder_config": {
            "enc_dim": sizes.talker.hidden,
            "sample_rate": SAMPLE_RATE,
            **sizes.speaker_encoder,
        },
        "talker_config": {
            "model_type": "qwen3_tts_talker",
            **sizes.talker.config(),
            "attention_bias": False,
            "hidden_act": "silu",
            "max_position_embeddings": 32768,
            "num_code_groups": CODE_GROUPS,
            "position_id_per_seconds": 13,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000,
            "rope_scaling": {
                "interleaved": True,
                "mrope_section": list(sizes.mrope_section),
                "rope_type": "default",
            },
            "text_hidden_size": sizes.text_hidden,
            "text_vocab_size": TEXT_VOCABULARY,
            "vocab_size": TALKER_VOCABULARY,
            "codec_pad_id": CODEC_PAD,
            "codec_bos_id": CODEC_BOS,
            "codec_eos_token_id": CODEC_EOS,
            "codec_think_id": 2154,
            "codec_nothink_id": 2155,
            "codec_think_bos_id": 2156,
            "codec_think_eos_id": 2157,
            "codec_language_id": LANGUAGE_IDS,
            "spk_id": speakers,
            "spk_is_dialect": {name: SPEAKER_DIALECTS.get(name, False) for name in speakers},
            "code_predictor_config": {
                "model_type": "qwen3_tts_talker_code_predictor",
                **sizes.predictor.config(),
                "attention_bias": False,
                "hidden_act": "silu",
                "max_position_embeddings": 65536,
                "num_code_groups": CODE_GROUPS,
                "rms_norm_eps": 1e-6,
                "rope_theta": 1000000,
                "vocab_size": CODEBOOK_SIZE,
            },
        },
    }


def generation_config() -> dict[str, Any]:
    """The content of ``generation_config.json``: the sampling defaults of the published checkpoints."""
    return {
        "do_sample": True,
        "top_k": 50,
        "top_p": 1.0,
        "temperature": 0.9,
        "repetition_penalty": 1.05,
        "subtalker_dosample": True,
        "subtalker_top_k": 50,
        "subtalker_top_p": 1.0,
        "subtalker_temperature": 0.9,
        "max_new_tokens": 8192,
    }


def codec_config(geometry: Geometry) -> dict[str, Any]:
    """The content of ``speech_tokenizer/config.json``: encoder (Mimi's architecture) and decoder."""
    sizes = SIZES[geometry]
    return {
        "architectures": ["Qwen3TTSTokenizerV2Model"],
        "model_type": "qwen3_tts_tokenizer_12hz",
        "encoder_valid_num_quantizers": CODE_GROUPS,
        "input_sample_rate": SAMPLE_RATE,
        "output_sample_rate": SAMPLE_RATE,
        "encode_downsample_rate": SAMPLES_PER_FRAME,
        "decode_upsample_rate": SAMPLES_PER_FRAME,
        "encoder_config": {
            "model_type": "mimi",
            "sampling_rate": SAMPLE_RATE,
            "codebook_size": CODEBOOK_SIZE,
            "num_quantizers": 32,
            "num_semantic_quantizers": 1,
            "rope_theta": 10000.0,
            "sliding_window": 250,
            **sizes.codec_encoder,
        },
        "decoder_config": {
            "attention_bias": False,
            "hidden_act": "silu",
            "max_position_embeddings": 8000,
            "num_quantizers": CODE_GROUPS,
            "num_semantic_quantizers": 1,
            "codebook_size": CODEBOOK_SIZE,
            "semantic_codebook_size": 4096,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000,
            "layer_scale_initial_scale": 0.01,
            "sliding_window": 72,
            "upsample_rates": [8, 5, 4, 3],
            "upsampling_ratios": [2, 2],
            "vector_quantization_hidden_dimension": 512,
            **sizes.codec_decoder,
        },
    }


def feature_extractor_config() -> dict[str, Any]:
    """The content of ``speech_tokenizer/preprocessor_config.json``."""
    return {
        "feature_extractor_type": "EncodecFeatureExtractor",
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "sampling_rate": SAMPLE_RATE,
        "chunk_length_s": None,
        "overlap": None,
    }
