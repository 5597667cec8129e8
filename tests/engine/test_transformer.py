"""One layer and one stack against upstream's own modules; weights taken over, laid out, given back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qwen3_tts_service.checkpoints.load import LoadedModel, load
from qwen3_tts_service.engine import linear as matrices
from qwen3_tts_service.engine import transformer
from qwen3_tts_service.engine.frame import FrameModel
from qwen3_tts_service.engine.prompt import PromptBuilder
from qwen3_tts_service.engine.transformer import Stack, StackWeights, attention
from qwen3_tts_service.errors import CheckpointError
from qwen3_tts_service.speech.request import Sampling, SpeechRequest

from .frame_runs import Voice, alone, compare

POSITIONS = 48
REQUEST = SpeechRequest("Nothing is left behind.", "vivian", text_feeding="streaming")


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> LoadedModel:
    return load(tiny_checkpoint, device="cpu", dtype="fp32", cpu_threads=1)


def parts(model: LoadedModel) -> dict[str, Any]:
    talker: Any = model.upstream.model.talker
    return {"talker": talker.model, "predictor": talker.code_predictor.model}


def stack_of(upstream: Any, weights: matrices.Weights = "bf16") -> Stack:
    return Stack(
        StackWeights(upstream, positions=POSITIONS, weights=weights, release=False),
        slots=3,
        positions=POSITIONS,
    )


def causal(position: Tensor, length: int) -> Tensor:
    hidden = torch.arange(length) > position[:, :, None]
    return torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)[:, None]


@pytest.mark.parametrize("which", ["talker", "predictor"])
def test_a_prompt_and_single_steps_give_upstreams_outputs(model: LoadedModel, which: str) -> None:
    """A prompt of 9 in slot 1, then one token at a time in a batch of three: upstream's, read at once."""
    upstream = parts(model)[which]
    stack = stack_of(upstream)
    generator = torch.Generator().manual_seed(0)
    hidden = stack.weights.norm.shape[0]
    x = torch.randn(1, 16, hidden, generator=generator) * 0.5
    with torch.no_grad():
        expected = upstream(inputs_embeds=x, use_cache=False).last_hidden_state
        prompt = torch.arange(9)[None]
        outputs = [stack.prefill(x[:, :9], prompt, causal(prompt, 9), 1)]
        for step in range(9, 16):
            # Neighbours at other positions, one of them at the very end.
            position = torch.tensor([[step - 5], [step], [POSITIONS - 1]])
            rows = torch.randn(3, 1, hidden, generator=generator)
            rows[1] = x[:, step]
            outputs.append(stack.step(rows, position, causal(position, POSITIONS))[1:2])
    torch.testing.assert_close(torch.cat(outputs, dim=1), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_rotary_tables_are_upstreams_to_the_last_bit(tiny_checkpoint: Path, dtype: str) -> None:
    model = load(tiny_checkpoint, device="cpu", dtype=dtype, cpu_threads=1)
    for name, upstream in parts(model).items():
        weights = StackWeights(upstream, positions=2048, weights="bf16", release=False)
        axes = torch.arange(2048)[None]
        position = axes.expand(3, 1, -1) if name == "talker" else axes
        cos, sin = upstream.rotary_emb(weights.norm, position)
        for ours, theirs in ((weights.cos, cos), (weights.sin, sin)):
            # The talker's come once for each of three position axes, all alike.
            for axis in theirs.reshape(-1, 2048, theirs.shape[-1]):
                assert torch.equal(ours[:, 0], axis)


@pytest.mark.parametrize(("heads", "kv_heads", "tokens"), [(4, 2, 1), (6, 2, 7), (8, 8, 3), (5, 1, 1)])
def test_grouped_attention_is_attention_with_repeated_keys(heads: int, kv_heads: int, tokens: int) -> None:
    generator = torch.Generator().manual_seed(heads)
    query = torch.randn(2, tokens, heads, 16, generator=generator)
    keys, values = torch.randn(2, 2, kv_heads, 24, 16, generator=generator)
    position = torch.arange(tokens).expand(2, -1) + torch.tensor([[3], [11]])
    mask = causal(position, 24)
    every_key, every_value = (part.repeat_interleave(heads // kv_heads, dim=1) for part in (keys, values))
    scores = torch.einsum("bthd,bhld->bhtl", query, every_key) / 4 + mask
    expected = torch.einsum("bhtl,bhld->bthd", scores.softmax(dim=-1), every_value).flatten(2)
    torch.testing.assert_close(attention(query, keys, values, mask), expected, atol=2e-6, rtol=0)


def bytes_of(module: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def test_released_weights_are_gone_and_prompts_and_speech_stay(
    model: LoadedModel, tiny_checkpoint: Path
) -> None:
    """No unfused copy stays, the embeddings are shared, and everything is said as before."""
    kept = FrameModel(model, slots=1, positions=256)
    expected = alone(kept, Voice(PromptBuilder(model).build(REQUEST), max_frames=6))
    given = load(tiny_checkpoint, device="cpu", dtype="fp32", cpu_threads=1)
    ours = FrameModel(given, slots=1, positions=256, release_upstream=True)
    talker: Any = given.upstream.model.talker
    for gone in (*parts(given)["talker"].layers, *parts(given)["predictor"].layers, talker.codec_head):
        assert bytes_of(gone) == 0
    assert bytes_of(talker.code_predictor.lm_head) == 0
    shared = (talker.model.codec_embedding, *talker.code_predictor.model.codec_embedding)
    own = (ours.embedding, *ours.embeddings)
    assert all(
        table.weight.data_ptr() == tensor.data_ptr() for table, tensor in zip(shared, own, strict=True)
    )
    run = alone(ours, Voice(PromptBuilder(given).build(REQUEST), max_frames=6))
    assert compare(run, expected, tolerance=0.0).frames == 6


def test_the_device_has_the_memory_of_released_layers_back_before_keys_and_values_are_made(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = copy.deepcopy(parts(model)["predictor"])
    steps: list[object] = []

    def give_back(device: torch.device) -> None:
        steps.append(sum(map(bytes_of, upstream.layers)))

    class Cache(transformer.KeyValueCache):
        def __init__(self, weights: StackWeights, *, slots: int, positions: int) -> None:
            steps.append("keys and values")
            super().__init__(weights, slots=slots, positions=positions)

    monkeypatch.setattr(transformer, "give_back", give_back)
    monkeypatch.setattr(transformer, "KeyValueCache", Cache)
    Stack(StackWeights(upstream, positions=8, weights="bf16", release=True), slots=1, positions=8)
    assert steps == [0, "keys and values"]


@pytest.mark.parametrize(
    ("name", "value"), [("attention_bias", True), ("hidden_act", "gelu"), ("sliding_window", 72)]
)
def test_a_stack_of_another_kind_is_refused(model: LoadedModel, name: str, value: object) -> None:
    class Other:
        config = copy.copy(parts(model)["talker"].config)

    setattr(Other.config, name, value)
    with pytest.raises(CheckpointError, match=f"{name} {value!r}.*reference"):
        StackWeights(Other, positions=8, weights="bf16", release=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 5)])
def test_reordered_weights_give_the_plain_product(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(96, 64, generator=generator).to(dtype)
    x = torch.randn(*shape, 64, generator=generator).to(dtype)
    packed = matrices.laid_out(weight, "bf16")
    # Processors without products in bf16 keep those weights plain.
    reordered = dtype is torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert isinstance(packed, matrices.PackedMatrix) == reordered
    expected = x.double() @ weight.double().T
    rounding = 1e-5 if dtype is torch.float32 else 0.2
    torch.testing.assert_close(matrices.linear(x, packed).double(), expected, atol=rounding, rtol=0)
    # Traced as torch.compile does it, without its minutes of code generation.
    traced = torch.compile(matrices.linear, fullgraph=True, backend="aot_eager")
    assert torch.equal(traced(x, packed), matrices.linear(x, packed))


def test_weights_stay_plain_where_the_processor_cannot_multiply_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    weight = torch.randn(8, 8)
    assert matrices.laid_out(weight, "bf16") is weight


def test_reordered_weights_are_freed_with_what_stands_for_them() -> None:
    before = len(matrices._packed)
    packed = matrices.laid_out(torch.randn(32, 32), "bf16")
    assert len(matrices._packed) == before + 1
    del packed
    assert len(matrices._packed) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eight_bit_weights_are_within_half_a_step(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    weight = (torch.randn(64, 128, generator=generator) * torch.rand(64, 1, generator=generator)).to(dtype)
    weight[7] = 0
    values, scales = matrices.rounded(weight)
    restored = values.double() * scales.double()[:, None]
    # The scale is rounded to bf16 first, which may cut the largest weight of a row short by 1/256 of it.
    step = weight.double().abs().amax(dim=1, keepdim=True) / 127
    largest = 0.5 if dtype is torch.float32 else 1.0
    assert ((restored - weight.double()).abs() <= largest * step * 1.01).all()
    error = restored - weight.double()
    assert 0.002 < error.square().mean().sqrt() / weight.double().square().mean().sqrt() < 0.01
    # A few rows as in a frame, and many as in a prompt: two ways to the same product.
    for rows in (1, 3, 100):
        x = torch.randn(2, rows, 128, generator=generator).to(dtype)
        product = matrices.linear(x, matrices.Int8Matrix(values, scales)).double()
        expected = x.double() @ restored.T
        torch.testing.assert_close(
            product, expected, atol=1e-4 if dtype is torch.float32 else 0.05, rtol=0.01
        )


def test_eight_bit_speech_stays_near(model: LoadedModel) -> None:
    """The first frame's scores: apart by the rounding of the weights, and no more than that."""
    voice = Voice(PromptBuilder(model).build(REQUEST), Sampling(greedy=True), max_frames=1)
    exact, near = (
        alone(FrameModel(model, slots=1, positions=64, weights=weights), voice).scores[0][0]
        for weights in ("bf16", "int8")
    )
    finite = ~exact.isinf()
    error = float((near - exact)[finite].square().mean().sqrt() / exact[finite].square().mean().sqrt())
    print(f"8-bit weights: scores of the first frame differ by {error:.2g} of their size")
    assert 1e-4 < error < 0.05
