"""The least that a frame and its sound can cost: bytes and operations, from the checkpoint's configs alone.

A frame of one stream reads the talker's weights once, the code predictor's 15 times (its steps depend on each
other, and no cache holds it between two of them) and the keys and values of every position so far. Streams
of one batch share the weights. The codec's decoder is convolutions and matrix products over all its
positions: its operations per frame are a fixed number.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class StackCost:
    """One decoder stack: weights of its layers with the final norm, and what one position keeps."""

    weights: int
    #: Numbers (keys and values of all layers) that one position adds to the cache.
    cached: int
    #: Multiplications of one query with one cached position: scores and weighted sum, all layers.
    attention: int


@dataclass(frozen=True)
class FrameCost:
    """What one frame of ``batch`` streams at ``length`` positions reads (bytes) and computes (operations)."""

    talker_bytes: int
    predictor_bytes: int
    cache_bytes: int
    embedding_bytes: int
    operations: int

    @property
    def bytes(self) -> int:
        """All bytes that have to come from memory."""
        return self.talker_bytes + self.predictor_bytes + self.cache_bytes + self.embedding_bytes

    def seconds(self, *, bytes_a_second: float, operations_a_second: float) -> float:
        """The floor of a frame: memory and arithmetic overlap at best, so the slower of the two."""
        return max(self.bytes / bytes_a_second, self.operations / operations_a_second)


def stack_cost(config: dict[str, Any]) -> StackCost:
    """The cost of a stack from its config: fused or not, the weights are the same."""
    hidden, head = config["hidden_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    attention = hidden * queries + 2 * hidden * keys + queries * hidden
    norms = 2 * hidden + 2 * head
    layer = attention + 3 * hidden * config["intermediate_size"] + norms
    layers = config["num_hidden_layers"]
    return StackCost(
        weights=layers * layer + hidden, cached=layers * 2 * keys, attention=layers * 2 * queries
    )


@dataclass(frozen=True)
class LanguageModelFloor:
    """Talker and code predictor of one checkpoint."""

    talker: StackCost
    predictor: StackCost
    #: Weights of the talker's head, of one head of the predictor, and of the projection in front of it.
    talker_head: int
    predictor_head: int
    projection: int
    hidden: int
    codebooks: int

    @classmethod
    def of(cls, config: dict[str, Any]) -> LanguageModelFloor:
        """From the content of a checkpoint's ``config.json``."""
        talker = config["talker_config"]
        predictor = talker["code_predictor_config"]
        wide, narrow = talker["hidden_size"], predictor["hidden_size"]
        return cls(
            talker=stack_cost(talker),
            predictor=stack_cost(predictor),
            talker_head=wide * talker["vocab_size"],
            predictor_head=narrow * predictor["vocab_size"],
            # Upstream puts an identity there when both stacks are equally wide.
            projection=0 if wide == narrow else wide * narrow + narrow,
            hidden=wide,
            codebooks=talker["num_code_groups"],
        )

    def frame(
        self, *, batch: int, length: int, bytes_a_number: int, bytes_a_weight: int | None = None
    ) -> FrameCost:
        """One frame of ``batch`` streams that each attend to ``length`` positions, their own included.

        ``bytes_a_weight``: where matrices lie in memory in another form than what is computed.
        """
        bytes_a_weight = bytes_a_weight or bytes_a_number
        steps = self.codebooks - 1
        talker = self.talker.weights + self.talker_head
        # The projection is for the talker's state only: what a code projects to can be kept in a table.
        predictor = steps * (self.predictor.weights + self.predictor_head) + self.projection
        # The predictor's first step has two positions (the talker's state and codebook 0), each later one adds one.
        positions = sum(range(2, steps + 2))
        cached = batch * (length * self.talker.cached + positions * self.predictor.cached)
        # Two positions go through the predictor's layers in its first step.
        products = talker + predictor + self.predictor.weights
        attention = length * self.talker.attention + (positions + 1) * self.predictor.attention
        return FrameCost(
            talker_bytes=talker * bytes_a_weight,
            predictor_bytes=predictor * bytes_a_weight,
            cache_bytes=cached * bytes_a_number,
            embedding_bytes=batch * (self.codebooks + 1) * self.hidden * bytes_a_number,
            operations=2 * batch * (products + attention),
        )


@dataclass(frozen=True)
class CodecFloor:
    """The codec's decoder: operations (a multiplication and an addition are two) of its parts per frame."""

    products_a_frame: int
    #: Operations of the attention for one query with one position of its window.
    attention_a_position: int
    window: int

    @classmethod
    def of(cls, config: dict[str, Any]) -> CodecFloor:
        """From the ``decoder_config`` of a checkpoint's ``speech_tokenizer/config.json``."""
        codebook, latent, hidden = config["codebook_dim"], config["latent_dim"], config["hidden_size"]
        queries = config["num_attention_heads"] * config["head_dim"]
        keys = config["num_key_value_heads"] * config["head_dim"]
        layer = 2 * hidden * (queries + keys) + 3 * hidden * config["intermediate_size"]
        layers = config["num_hidden_layers"]
        macs = 2 * (codebook // 2) * codebook + 3 * codebook * latent
        macs += 2 * latent * hidden + layers * layer
        positions = 1
        for factor in config["upsampling_ratios"]:
            macs += positions * factor * latent * latent
            positions *= factor
            # ConvNeXt: a depthwise convolution of 7 taps, then out to four times the width and back.
            macs += positions * (7 * latent + 8 * latent * latent)
        width = config["decoder_dim"]
        macs += positions * 7 * latent * width
        for rate in config["upsample_rates"]:
            macs += positions * 2 * rate * width * (width // 2)
            positions *= rate
            width //= 2
            macs += positions * 3 * (7 + 1) * width * width
        macs += positions * 7 * width
        return cls(2 * macs, 2 * layers * 2 * queries, config["sliding_window"])

    @classmethod
    def of_checkpoint(cls, directory: Path) -> CodecFloor:
        """From a checkpoint directory that has been inspected."""
        content = json.loads((directory / "speech_tokenizer" / "config.json").read_text(encoding="utf-8"))
        return cls.of(content["decoder_config"])

    def operations(self, frames: int) -> int:
        """Operations of ``frames`` frames decoded once, each query attending to its window only."""
        full = max(0, frames - self.window)
        growing = min(frames, self.window)
        attended = growing * (growing + 1) // 2 + full * self.window
        return frames * self.products_a_frame + attended * self.attention_a_position
