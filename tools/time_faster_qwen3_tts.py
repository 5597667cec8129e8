#!/usr/bin/env python3
"""Time faster-qwen3-tts on a checkpoint, for the table beside ours; prints one JSON object.

It needs another transformers than the service, so it runs in an environment of its own: put faster-qwen3-tts
0.5.4 and what it depends on into a folder and name that in PYTHONPATH. A GPU is required.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

SAMPLES_A_FRAME = 1920
SENTENCE = "Hello there, this is a test of the synthesis endpoint, and it is a sentence of a usual length for a reader."


def load(checkpoint: Path) -> Any:
    """The model on the first GPU, with a voice that does not end by itself."""
    import torch
    import transformers

    # The transformers that it needs no longer has this attribute, which the codec's config still asks for.
    transformers.MimiConfig.rope_theta = 10000.0
    from faster_qwen3_tts import FasterQwen3TTS

    model = FasterQwen3TTS.from_pretrained(
        str(checkpoint), device="cuda", dtype=torch.bfloat16, attn_implementation="sdpa"
    )
    eos = json.loads((checkpoint / "config.json").read_text())["talker_config"]["codec_eos_token_id"]
    with torch.no_grad():
        # Its graphs take no hooks: with a score of 0 the end is not among the 50 best candidates.
        model.model.model.talker.codec_head.weight[eos].zero_()
    return model


def speak(model: Any, voice: str, frames: int, chunk: int) -> dict[str, float]:
    """One streamed request: seconds to the first samples and to the end, and how many frames came."""
    import torch

    torch.cuda.synchronize()
    started, first_s, samples = time.perf_counter(), 0.0, 0
    for part in model.generate_custom_voice_streaming(
        text=SENTENCE, speaker=voice, language="english", max_new_tokens=frames, chunk_size=chunk
    ):
        samples += len(part[0])
        first_s = first_s or time.perf_counter() - started
    torch.cuda.synchronize()
    return {
        "first_s": first_s,
        "whole_s": time.perf_counter() - started,
        "frames": samples / SAMPLES_A_FRAME,
    }


def whole(model: Any, voice: str, frames: int) -> dict[str, float]:
    """One request in one piece."""
    import torch

    torch.cuda.synchronize()
    started = time.perf_counter()
    waveforms, _ = model.generate_custom_voice(
        text=SENTENCE, speaker=voice, language="english", max_new_tokens=frames
    )
    torch.cuda.synchronize()
    return {"whole_s": time.perf_counter() - started, "frames": len(waveforms[0]) / SAMPLES_A_FRAME}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="a CustomVoice checkpoint")
    parser.add_argument("--frames", type=int, default=112)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=4, help="frames of a streamed chunk")
    arguments = parser.parse_args()
    voice = next(
        iter(json.loads((arguments.checkpoint / "config.json").read_text())["talker_config"]["spk_id"])
    )
    model = load(arguments.checkpoint)
    whole(model, voice, 20)  # captures its graphs
    pieces = [whole(model, voice, arguments.frames) for _ in range(arguments.repeats)]
    streams = [speak(model, voice, arguments.frames, arguments.chunk) for _ in range(arguments.repeats)]
    result = {
        "versions": {
            name: importlib.metadata.version(name) for name in ("faster-qwen3-tts", "transformers", "torch")
        },
        "whole": pieces,
        "streamed": streams,
        "ms_a_frame": statistics.median(1e3 * run["whole_s"] / run["frames"] for run in pieces),
        "first_sound_ms": statistics.median(1e3 * run["first_s"] for run in streams),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
