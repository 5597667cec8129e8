"""The text tokenizer of a synthetic checkpoint: bytes, two merged words, special tokens at their real ids.

Upstream cuts a prompt by position: ``<|im_start|>assistant\\n`` must be three tokens and the closing
``<|im_end|>\\n<|im_start|>assistant\\n`` five (``Qwen3TTSForConditionalGeneration.generate``), so the words
of the roles are merged into one token each, at the ids that they have in the published vocabulary.
"""

from __future__ import annotations

import json
from pathlib import Path

from .geometry import FIRST_SPECIAL_TEXT_ID, TTS_BOS, TTS_EOS, TTS_PAD

#: Words that must be one token -> id in the published vocabulary.
_ROLES = {"assistant": 77091, "user": 872}

#: In order of their ids, which go up by one from the first.
_SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
    "<|audio_start|>",
    "<|audio_end|>",
    "<tts_pad>",
    "<tts_text_bos>",
    "<tts_text_eod>",
    "<tts_text_bos_single>",
    "<|audio_pad|>",
)


def special_token_ids() -> dict[str, int]:
    """Special token -> id."""
    ids = {token: FIRST_SPECIAL_TEXT_ID + index for index, token in enumerate(_SPECIAL_TOKENS)}
    assert (ids["<tts_pad>"], ids["<tts_text_bos>"], ids["<tts_text_eod>"]) == (TTS_PAD, TTS_BOS, TTS_EOS)
    return ids


def _byte_symbols() -> list[str]:
    """The printable stand-ins of the 256 bytes, in the order of their ids in byte-level BPE vocabularies."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    shifted = [256 + index for index in range(256 - len(printable))]
    return [chr(code) for code in (*printable, *shifted)]


def write(directory: Path) -> None:
    """Write ``vocab.json``, ``merges.txt`` and ``tokenizer_config.json`` into ``directory``."""
    vocabulary = {symbol: index for index, symbol in enumerate(_byte_symbols())}
    merges = []
    for word, word_id in _ROLES.items():
        for length in range(1, len(word)):
            merges.append(f"{word[:length]} {word[length]}")
            vocabulary.setdefault(word[: length + 1], len(vocabulary))
        vocabulary[word] = word_id
    # The special tokens get the ids that follow the vocabulary's last one, so it must be full. No merge makes
    # the fillers, so no text contains them.
    taken = set(vocabulary.values())
    vocabulary |= {
        f"<|unused_{index}|>": index for index in range(FIRST_SPECIAL_TEXT_ID) if index not in taken
    }
    added = {
        str(token_id): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token not in {"<tool_call>", "</tool_call>", "<think>", "</think>"},
        }
        for token, token_id in special_token_ids().items()
    }
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (directory / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
