"""What synthetic weights promise, so that tests on them mean something: sizes, variety, endings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwen3_tts_service.checkpoints import synthetic
from qwen3_tts_service.checkpoints.load import load
from qwen3_tts_service.engine import reference
from qwen3_tts_service.engine.reference import ReferenceEngine
from qwen3_tts_service.speech.request import SpeechRequest

pytestmark = pytest.mark.slow

SENTENCE = "The quick brown fox jumps over the lazy dog."
#: Ends after the 100 frames in which codes are counted.
LONG = "A long sentence, so that there are more than one hundred frames of speech to count the distinct codes in."


@pytest.fixture(scope="module", params=[0, 1])
def engine(request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: Any) -> ReferenceEngine:
    """Two seeds, so that a promise does not hold by luck."""
    if request.param == 0:
        return ReferenceEngine.load(tiny_checkpoint, device="cpu", cpu_threads=1)
    directory = tmp_path_factory.mktemp("seed") / "1"
    synthetic.write(directory, geometry="tiny", model_type="custom_voice", seed=request.param)
    return ReferenceEngine.load(directory, device="cpu", cpu_threads=1)


def spoken_together(
    engine: ReferenceEngine, requests: Sequence[SpeechRequest], *, frames: int = 300, greedy: bool = False
) -> list[torch.Tensor]:
    """Each request's codes, from one batch of upstream's generate: twenty voices take little longer than one."""
    scripts = [engine._reader.read(request) for request in requests]
    torch.manual_seed(0)
    codes, _ = engine.model.upstream.model.generate(
        input_ids=[script.text for script in scripts],
        languages=[script.language for script in scripts],
        speakers=[script.voice for script in scripts],
        non_streaming_mode=True,
        max_new_tokens=frames + 1,
        **reference._sampling_arguments(engine._default_sampling, greedy=greedy),
    )
    return list(codes)


def is_a_layer(name: str) -> bool:
    """Decoder layers, projections into and out of the stacks, heads, and every block of the codec's chain.

    Not: embeddings (sixteen of them are summed), norms, and the branches inside a layer.
    """
    chain = ("upsample.", "decoder.", "pre_conv", "pre_transformer.input_proj", "pre_transformer.output_proj")
    stack = name.split(".")
    return (
        (len(stack) >= 2 and stack[-2] == "layers" and stack[-1].isdigit())
        or name.endswith(("text_projection", "codec_head"))
        or ".lm_head." in name
        or (name.startswith(chain) and name.count(".") <= 3 and name != "decoder.6" and "norm" not in name)
    ) and not name.startswith("decoder.6")


def test_every_layer_puts_out_numbers_of_a_sane_size(engine: ReferenceEngine) -> None:
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])

    def record(name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            values = (output[0] if isinstance(output, tuple) else output).double()
            sums[name][0] += float(values.sum())
            sums[name][1] += float(values.square().sum())
            sums[name][2] += values.numel()

        return hook

    model = engine.model.upstream.model
    handles = [
        module.register_forward_hook(record(f"{part}:{name}"))
        for part, root in (("talker", model.talker), ("codec", model.speech_tokenizer.model.decoder))
        for name, module in root.named_modules()
        if is_a_layer(name)
    ]
    engine.synthesize(SpeechRequest(SENTENCE, "vivian", "english"), greedy=True)
    for handle in handles:
        handle.remove()
    sizes = {
        name: (squares / count - (total / count) ** 2) ** 0.5
        for name, (total, squares, count) in sums.items()
    }
    assert len(sizes) > 40
    assert {name: size for name, size in sizes.items() if not 0.3 <= size <= 1.0} == {}


def test_the_waveform_is_audible_and_does_not_clip(engine: ReferenceEngine) -> None:
    for codes in spoken_together(engine, [SpeechRequest(SENTENCE, "ryan", "german")] * 2):
        waveform = engine.decode(codes)
        assert 0.05 <= waveform.std() <= 0.3
        assert np.abs(waveform).max() < 0.99
        assert abs(waveform.mean()) < 0.02


def test_greedy_decoding_does_not_loop(engine: ReferenceEngine) -> None:
    codes = engine.codes(SpeechRequest(LONG, "serena", "english", max_frames=100), greedy=True)
    assert len(codes) == 100
    assert min(len(set(codes[:, group].tolist())) for group in range(16)) >= 30


def test_speech_ends_and_its_length_varies_and_grows_with_the_text(engine: ReferenceEngine) -> None:
    requests = [SpeechRequest(text, "aiden") for text in ("Good morning.", SENTENCE) for _ in range(3)]
    counts = [len(codes) for codes in spoken_together(engine, requests)]
    short, medium = counts[:3], counts[3:]
    assert max(short) < min(medium)
    assert len(set(short + medium)) >= 3
    for text, counts in (("Good morning.", short), (SENTENCE, medium)):
        # About a frame a byte; far from the cap of 2048 frames.
        assert all(0.8 * len(text) <= count <= 3 * len(text) for count in counts)


def test_text_speaker_and_language_are_heard(engine: ReferenceEngine) -> None:
    first = SpeechRequest(SENTENCE, "vivian", "english")
    others = {
        **{voice: replace(first, voice=voice) for voice in engine.speakers if voice != "vivian"},
        **{name: replace(first, language=name) for name in engine.languages if name != "english"},
        "text": replace(first, text="The quick brown fox jumps over the lazy cat."),
    }
    assert len(others) == 8 + 10 + 1
    own = engine.codes(replace(first, max_frames=15), greedy=True)

    def same(codes: torch.Tensor) -> float:
        frames = min(len(own), len(codes))
        return float((own[:frames] == codes[:frames]).float().mean())

    again, *spoken = spoken_together(engine, [first, *others.values()], frames=15, greedy=True)
    assert same(again) > 0.9, "in the batch each says what it says alone"
    for name, codes in zip(others, spoken, strict=True):
        assert same(codes) < 0.7, f"{name} makes hardly a difference"


def test_dialect_speakers_speak_their_dialect_in_chinese(engine: ReferenceEngine) -> None:
    """Upstream swaps the language id for dylan and eric; with the flag removed the codes must change."""
    config = engine.model.upstream.model.config.talker_config
    request = SpeechRequest("Hello.", "dylan", "chinese", max_frames=15)
    with_dialect = engine.codes(request, greedy=True)
    flags = config.spk_is_dialect
    config.spk_is_dialect = {**flags, "dylan": False}
    try:
        without = engine.codes(request, greedy=True)
    finally:
        config.spk_is_dialect = flags
    assert with_dialect.tolist() != without.tolist()


def test_base_clones_from_a_recording(base_checkpoint: Path) -> None:
    """Speaker encoder and codec encoder work: other recordings give other embeddings, codes and speech."""
    upstream = load(base_checkpoint, device="cpu", cpu_threads=1).upstream
    generator = np.random.default_rng(0)
    time = np.arange(48_000) / 24_000
    recordings = [
        (0.2 * np.sin(2 * np.pi * 220 * time)).astype(np.float32),
        (0.1 * generator.standard_normal(48_000)).astype(np.float32),
    ]
    prompts = [upstream.create_voice_clone_prompt((wave, 24_000), ref_text="hello")[0] for wave in recordings]
    embeddings = torch.stack([prompt.ref_spk_embedding for prompt in prompts])
    assert (embeddings.std(dim=1) > 0.1).all()
    assert float((embeddings[0] - embeddings[1]).std()) > 0.05
    assert all(prompt.ref_code.shape == (25, 16) for prompt in prompts)
    # Noise differs from frame to frame, so its codes do.
    assert min(len(set(prompts[1].ref_code[:, group].tolist())) for group in range(16)) >= 5
    spoken = []
    for prompt in prompts:
        torch.manual_seed(0)
        [waveform], _ = upstream.generate_voice_clone(
            "Hello.", language="english", voice_clone_prompt=[prompt], max_new_tokens=300
        )
        assert 0.05 <= waveform.std() <= 0.3
        assert len(waveform) < 299 * 1920
        spoken.append(waveform)
    assert len(spoken[0]) != len(spoken[1]) or not np.array_equal(spoken[0], spoken[1])


def test_voice_design_follows_its_instructions(design_checkpoint: Path) -> None:
    engine = ReferenceEngine.load(design_checkpoint, device="cpu", cpu_threads=1)
    assert engine.speakers == ()
    low, high = (
        engine.codes(SpeechRequest("Hello there.", instructions=words, max_frames=15), greedy=True)
        for words in ("A deep voice.", "A high voice.")
    )
    frames = min(len(low), len(high))
    assert float((low[:frames] == high[:frames]).float().mean()) < 0.5
