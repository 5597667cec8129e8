"""The streaming decoder against upstream's: one undivided pass is the measure of everything."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from host_needs import needs_compiler
from qwen3_tts_service.codec.latents import PlainLatents
from qwen3_tts_service.codec.state import DecoderState
from qwen3_tts_service.codec.streaming import StreamingDecoder
from qwen3_tts_service.errors import EngineError
from qwen3_tts_service.native import NotCompiled

from . import undivided, upstream_decoder

FRAMES = 320  # 25.6 s: more than the 24 s after which upstream's own chunks lose context
STREAMS = 3
SAMPLES = 1920
WAYS = ["eager", pytest.param("compiled", marks=needs_compiler)]


@dataclass(frozen=True)
class Oracle:
    upstream: Any
    codes: Tensor  # [streams, 16, frames]
    wanted: Tensor  # [streams, samples], one undivided pass of upstream
    bound: float


@dataclass(frozen=True)
class Bench(Oracle):
    decoder: StreamingDecoder


@pytest.fixture(scope="module")
def oracle(tiny_checkpoint: Path) -> Oracle:
    upstream = upstream_decoder(tiny_checkpoint)
    codes = torch.randint(0, 2048, (STREAMS, 16, FRAMES), generator=torch.Generator().manual_seed(5))
    return Oracle(upstream, codes, *undivided(upstream, codes))


@pytest.fixture(scope="module", params=WAYS)
def bench(request: pytest.FixtureRequest, oracle: Oracle, kernels: Path) -> Bench:
    way = request.param
    decoder = StreamingDecoder(oracle.upstream, compile=way == "compiled", kernels=kernels)
    assert decoder.way == way, decoder.reason
    return Bench(oracle.upstream, oracle.codes, oracle.wanted, oracle.bound, decoder)


def in_chunks(decoder: StreamingDecoder, codes: Tensor, sizes: list[int]) -> Tensor:
    state = decoder.new_state(codes.shape[0])
    return torch.cat([decoder.decode(chunk, state) for chunk in codes.split(sizes, dim=-1)], dim=-1)


def test_one_call_equals_one_pass(bench: Bench) -> None:
    got = bench.decoder.decode(bench.codes, bench.decoder.new_state(STREAMS))
    assert got.shape == (STREAMS, FRAMES * SAMPLES)
    assert got.dtype == torch.float32
    assert (got - bench.wanted).abs().max() <= bench.bound


def test_upstreams_own_chunks_would_not_pass(oracle: Oracle) -> None:
    """The bound tells a decoder with too little context from an exact one."""
    with torch.no_grad():
        chunked = oracle.upstream.chunked_decode(oracle.codes[:1])[:, 0]
    assert (chunked - oracle.wanted[:1]).abs().max() > 3 * oracle.bound


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_chunking_equals_one_pass(bench: Bench, data: st.DataObject) -> None:
    frames = data.draw(st.integers(1, 140), label="frames")
    sizes = []
    while sum(sizes) < frames:
        sizes.append(data.draw(st.integers(1, min(40, frames - sum(sizes))), label="chunk"))
    got = in_chunks(bench.decoder, bench.codes[:1, :, :frames], sizes)
    assert got.shape == (1, frames * SAMPLES)
    assert (got - bench.wanted[:1, : frames * SAMPLES]).abs().max() <= bench.bound


def test_growing_chunks_past_24_seconds(bench: Bench) -> None:
    sizes = [1, 2, 4, 8] + [16] * 19 + [1]
    got = in_chunks(bench.decoder, bench.codes[:1], sizes)
    assert (got - bench.wanted[:1]).abs().max() <= bench.bound


@pytest.mark.parametrize("short", [0, 1])
def test_frames_that_nobody_hears_cost_no_sound_and_lose_nothing(bench: Bench, short: int) -> None:
    """All but the last few frames of a context are only heard; one fewer of those would be noticed."""
    decoder, context = bench.decoder, 90
    states = [decoder.new_state(), decoder.new_state(STREAMS - 1)]
    silent = context - decoder.reach + short
    decoder.hear(bench.codes[:, :, :33], states)
    decoder.hear(bench.codes[:, :, 33:silent], states)
    decoder.decode(bench.codes[:, :, silent:context], states)
    got = decoder.decode(bench.codes[:, :, context : context + 20], states)
    error = (got - bench.wanted[:, context * SAMPLES : (context + 20) * SAMPLES]).abs().max()
    assert error > 3 * bench.bound if short else error <= bench.bound


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_streams_at_different_positions_share_a_batch(bench: Bench, data: st.DataObject) -> None:
    """Streams start at different times and meet in batches of changing members."""
    states = [bench.decoder.new_state() for _ in range(STREAMS)]
    done = [0] * STREAMS
    sounds: list[list[Tensor]] = [[] for _ in range(STREAMS)]
    for _ in range(data.draw(st.integers(2, 9), label="calls")):
        members = data.draw(
            st.lists(st.sampled_from(range(STREAMS)), min_size=1, unique=True), label="members"
        )
        frames = data.draw(st.integers(1, 20), label="frames")
        codes = torch.stack([bench.codes[i, :, done[i] : done[i] + frames] for i in members])
        for i, sound in zip(members, bench.decoder.decode(codes, [states[i] for i in members]), strict=True):
            sounds[i].append(sound)
            done[i] += frames
    for i, parts in enumerate(sounds):
        if parts:
            got = torch.cat(parts)
            assert got.shape == (done[i] * SAMPLES,)
            assert (got - bench.wanted[i, : done[i] * SAMPLES]).abs().max() <= bench.bound


def test_a_state_begins_anew_after_reset(bench: Bench) -> None:
    state = bench.decoder.new_state()
    bench.decoder.decode(bench.codes[1:2, :, :90], state)
    state.reset()
    got = bench.decoder.decode(bench.codes[:1, :, :30], state)
    assert (got - bench.wanted[:1, : 30 * SAMPLES]).abs().max() <= bench.bound


def test_a_state_is_moved_in_place(bench: Bench) -> None:
    state = bench.decoder.new_state(2)
    places = state.memory.data_ptr(), state.position.data_ptr()
    bench.decoder.decode(bench.codes[:2, :, :18], state)
    assert places == (state.memory.data_ptr(), state.position.data_ptr())
    assert state.position.tolist() == [18, 18]


def test_the_decoder_outlives_upstreams_weights(bench: Bench, kernels: Path) -> None:
    upstream = copy.deepcopy(bench.upstream)
    decoder = StreamingDecoder(upstream, compile=bench.decoder.way == "compiled", kernels=kernels)
    with torch.no_grad():
        for parameter in upstream.parameters():
            parameter.zero_()
    got = decoder.decode(bench.codes[:1, :, :5], decoder.new_state())
    assert (got - bench.wanted[:1, : 5 * SAMPLES]).abs().max() <= bench.bound


@pytest.mark.parametrize(
    ("codes", "states", "message"),
    [
        (torch.zeros(1, 15, 2, dtype=torch.int64), 1, "16"),
        (torch.zeros(1, 16, 0, dtype=torch.int64), 1, "frames >= 1"),
        (torch.zeros(16, 2, dtype=torch.int64), 1, "takes"),
        (torch.zeros(2, 16, 2, dtype=torch.int64), 1, "2 streams with the states of 1"),
        (torch.full((1, 16, 2), 2150), 1, "0 to 2047"),
        (torch.full((1, 16, 2), -1), 1, "0 to 2047"),
    ],
)
def test_wrong_codes_change_nothing(bench: Bench, codes: Tensor, states: int, message: str) -> None:
    state: DecoderState = bench.decoder.new_state(states)
    with pytest.raises(EngineError, match=message):
        bench.decoder.decode(codes, state)
    assert not state.memory.any()
    assert state.position.tolist() == [0] * states


@needs_compiler
def test_where_no_graph_can_be_captured_it_says_so_and_decodes(oracle: Oracle, kernels: Path) -> None:
    """A GPU that cannot capture: here, one that is not there at all."""
    decoder = StreamingDecoder(oracle.upstream, kernels=kernels)
    decoder.device = torch.device("cuda")
    decoder.prepare([(1, 1), (1, 4)])
    decoder.device = torch.device("cpu")
    assert decoder.way == "compiled"
    assert decoder.reason.startswith("not captured: ")
    got = in_chunks(decoder, oracle.codes, [FRAMES])
    assert (got - oracle.wanted).abs().max() <= oracle.bound


def test_whatever_a_compiler_raises_plain_torch_is_there(
    oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_decoder: StreamingDecoder, _directory: Path) -> Never:
        raise RuntimeError("the assembler\nis gone")

    monkeypatch.setattr(StreamingDecoder, "_kernels", broken)
    decoder = StreamingDecoder(oracle.upstream)
    assert (decoder.way, decoder.reason) == ("eager", "RuntimeError: the assembler is gone")
    got = in_chunks(decoder, oracle.codes, [FRAMES])
    assert (got - oracle.wanted).abs().max() <= oracle.bound


@pytest.mark.parametrize(
    "part", ["rows before the first product", "keys", "values", "depthwise convolution's rows"]
)
def test_compiled_latents_that_forget_a_part_of_the_state_are_not_used(oracle: Oracle, part: str) -> None:
    decoder = StreamingDecoder(oracle.upstream, compile=False)
    plain = decoder._latents
    assert isinstance(plain, PlainLatents)
    # The parts stand in the order of computation; that of the first upsampling has no rows.
    behind_the_windows = 1 + 2 * len(plain._transformer.layers)
    forgotten = {
        "rows before the first product": 0,
        "keys": 1,
        "values": 2,
        "depthwise convolution's rows": behind_the_windows + 1,
    }[part]

    def forgets(codes: Tensor, position: Tensor, views: Iterator[Tensor]) -> Tensor:
        kept = list(views)
        before = kept[forgotten].clone()
        rows = plain(codes, position, iter(kept))
        kept[forgotten].copy_(before)
        return rows

    with torch.no_grad():
        decoder._compare_latents(plain)
        with pytest.raises(NotCompiled, match="latents are off"):
            decoder._compare_latents(forgets)


def test_a_cpu_prepares_nothing(bench: Bench) -> None:
    bench.decoder.prepare([(1, 1)])
    assert bench.decoder.reason in ("", "compiling was not asked for")
