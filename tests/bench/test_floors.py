"""The floors are arithmetic on configs: compared with upstream's real modules, and with torch's own counter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from qwen3_tts_service.bench.floors import CodecFloor, LanguageModelFloor
from qwen3_tts_service.checkpoints import geometry
from qwen3_tts_service.checkpoints.load import LoadedModel, load

CHECKPOINTS = geometry.GEOMETRIES


def numbers(*modules: torch.nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> LoadedModel:
    return load(tiny_checkpoint, device="cpu", cpu_threads=1)


def upstream_talker(name: geometry.Geometry) -> Any:
    from qwen_tts.core.models import Qwen3TTSConfig, Qwen3TTSForConditionalGeneration

    with torch.device("meta"):
        config = Qwen3TTSConfig(**geometry.model_config(name, "custom_voice"))
        return Qwen3TTSForConditionalGeneration(config).talker


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_weights_are_those_of_upstreams_modules(name: geometry.Geometry) -> None:
    talker = upstream_talker(name)
    floor = LanguageModelFloor.of(geometry.model_config(name, "custom_voice"))
    predictor = talker.code_predictor
    assert floor.talker.weights == numbers(talker.model.layers, talker.model.norm)
    assert floor.talker_head == numbers(talker.codec_head)
    assert floor.predictor.weights == numbers(predictor.model.layers, predictor.model.norm)
    assert [floor.predictor_head] * 15 == [numbers(head) for head in predictor.lm_head]
    assert floor.projection == numbers(predictor.small_to_mtp_projection)


def test_a_frame_reads_the_bytes_of_the_loaded_tensors(model: LoadedModel) -> None:
    """Weights of the talker once, of the predictor 15 times, and upstream's own cache after so many positions."""
    talker: Any = model.upstream.model.talker
    predictor = talker.code_predictor
    floor = LanguageModelFloor.of(model.checkpoint.config)
    frame = floor.frame(batch=2, length=7, bytes_a_number=4)

    def size(*modules: torch.nn.Module) -> int:
        return sum(tensor.untyped_storage().nbytes() for part in modules for tensor in part.parameters())

    assert frame.talker_bytes == size(talker.model.layers, talker.model.norm, talker.codec_head)
    once = size(predictor.lm_head, predictor.small_to_mtp_projection)
    assert frame.predictor_bytes == 15 * size(predictor.model.layers, predictor.model.norm) + once

    def cached(stack: Any, positions: int) -> int:
        embeddings = torch.zeros(2, positions, stack.config.hidden_size)
        cache = stack(inputs_embeds=embeddings, use_cache=True).past_key_values
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)

    with torch.inference_mode():
        steps = sum(cached(predictor.model, positions) for positions in range(2, 17))
        assert frame.cache_bytes == cached(talker.model, 7) + steps


def test_the_real_geometry_has_the_published_floor() -> None:
    """2.8 GB of talker and 15 times 0.157 GB of predictor, in bfloat16."""
    config = geometry.model_config("1.7b", "custom_voice")
    frame = LanguageModelFloor.of(config).frame(batch=1, length=1, bytes_a_number=2)
    assert frame.talker_bytes == pytest.approx(2.83e9, rel=0.01)
    assert frame.predictor_bytes == pytest.approx(15 * 0.162e9, rel=0.01)


def test_the_slower_of_memory_and_arithmetic_is_the_floor(model: LoadedModel) -> None:
    frame = LanguageModelFloor.of(model.checkpoint.config).frame(batch=4, length=100, bytes_a_number=2)
    assert frame.seconds(bytes_a_second=1e6, operations_a_second=1e30) == frame.bytes / 1e6
    assert frame.seconds(bytes_a_second=1e30, operations_a_second=1e6) == frame.operations / 1e6


def test_operations_of_a_frame_are_those_that_torch_counts(model: LoadedModel) -> None:
    """Matrix products of one talker step and 15 predictor steps; attention is counted over the used positions."""
    talker: Any = model.upstream.model.talker
    predictor = talker.code_predictor
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        hidden = torch.zeros(1, 1, talker.config.hidden_size)
        talker.codec_head(talker.model(inputs_embeds=hidden, use_cache=False).last_hidden_state)
        predictor.small_to_mtp_projection(hidden)
        for step, head in enumerate(predictor.lm_head):
            new = torch.zeros(1, 2 if step == 0 else 1, predictor.config.hidden_size)
            out = predictor.model(inputs_embeds=new, use_cache=False).last_hidden_state
            head(out[:, -1])
    products = sum(
        count for op, count in counter.get_flop_counts()["Global"].items() if "attention" not in str(op)
    )
    floor = LanguageModelFloor.of(model.checkpoint.config)
    with_attention = floor.frame(batch=1, length=0, bytes_a_number=2).operations
    attention = 2 * (sum(range(2, 17)) + 1) * floor.predictor.attention
    # Norms and biases are weights, too, and no matrix products: under one percent.
    assert with_attention - attention == pytest.approx(products, rel=0.01)


def test_operations_of_the_codec_are_those_that_torch_counts(model: LoadedModel) -> None:
    decoder: Any = model.upstream.model.speech_tokenizer.model.decoder
    floor = CodecFloor.of_checkpoint(model.checkpoint.path)
    codes = torch.zeros(1, 16, 5, dtype=torch.long)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        decoder(codes)
    counted = sum(
        count for op, count in counter.get_flop_counts()["Global"].items() if "attention" not in str(op)
    )
    # Upstream makes the angles of the rotary embedding with a matrix product: a table for whoever keeps it.
    angles = 5 * 2 * decoder.config.head_dim // 2
    assert 5 * floor.products_a_frame == counted - angles


def test_the_real_codec_costs_what_was_measured() -> None:
    """555 GFLOP for 112 frames."""
    floor = CodecFloor.of(geometry.codec_config("1.7b")["decoder_config"])
    assert floor.operations(112) == pytest.approx(555e9, rel=0.02)


def test_a_window_bounds_the_codecs_attention(model: LoadedModel) -> None:
    floor = CodecFloor.of_checkpoint(model.checkpoint.path)
    later = floor.operations(300) - floor.operations(299)
    assert later == floor.products_a_frame + 72 * floor.attention_a_position
    assert floor.operations(1) == floor.products_a_frame + floor.attention_a_position
