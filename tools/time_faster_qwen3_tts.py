#!/usr/bin/env python3
"""Time faster-qwen3-tts on a checkpoint, for a table beside ours (``qwen3-tts bench --suite engine``, same machine).

It needs another transformers than the service, so it runs in an environment of its own: put faster-qwen3-tts
0.5.4 and what it depends on into a folder and name that and ``service`` in PYTHONPATH. A GPU is required.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "service"))

from qwen3_tts_service.bench import provenance  # noqa: E402 - the package need not be installed
from qwen3_tts_service.bench.plan import SENTENCE  # noqa: E402
from qwen3_tts_service.bench.report import Column, Report, Table, as_text  # noqa: E402
from qwen3_tts_service.bench.statistics import spread  # noqa: E402
from qwen3_tts_service.speech.request import SAMPLES_A_FRAME  # noqa: E402

#: Of the shorter of two requests: what they differ by is frames alone, without prompt and start.
SHARE = 0.25


def load(checkpoint: Path) -> Any:
    """The model on the first GPU, with a voice that does not end by itself."""
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


def first_sound(parts: Callable[[], Any]) -> float:
    """Seconds until the first samples of a streamed request, which is heard to its end."""
    torch.cuda.synchronize()
    started, first_s = time.perf_counter(), 0.0
    for _part in parts():
        first_s = first_s or time.perf_counter() - started
    torch.cuda.synchronize()
    return first_s


def whole(waveforms: Callable[[], Any], frames: int) -> float:
    """Seconds of a request in one piece. Raises ValueError when it has another length."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    sound = waveforms()[0][0]
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    if len(sound) != frames * SAMPLES_A_FRAME:
        raise ValueError(f"{len(sound)} samples are not {frames} frames of {SAMPLES_A_FRAME}")
    return seconds


def measure(model: Any, voice: str, *, text: str, frames: int, repeats: int, chunk: int) -> Report:
    """Requests of two lengths, round by round, and streamed ones."""

    def asked(length: int) -> dict[str, Any]:
        return {"text": text, "speaker": voice, "language": "english", "max_new_tokens": length}

    short = max(1, round(SHARE * frames))
    whole(lambda: model.generate_custom_voice(**asked(short)), short)  # captures its graphs
    rounds, firsts = [], []
    for _ in range(repeats):
        pair = [
            whole(lambda length=length: model.generate_custom_voice(**asked(length)), length)
            for length in (short, frames)
        ]
        rounds.append(pair)
        firsts.append(
            first_sound(lambda: model.generate_custom_voice_streaming(**asked(frames), chunk_size=chunk))
        )
    between = [(longer - shorter) / (frames - short) for shorter, longer in rounds]
    row = {
        "frame_ms": spread(between).scaled(1e3),
        "whole_ms": spread([longer / frames for _, longer in rounds]).scaled(1e3),
        "first_ms": spread(firsts).scaled(1e3),
    }
    version = importlib.metadata.version("faster-qwen3-tts")
    table = Table(
        name="faster",
        title=f"faster-qwen3-tts {version}, {frames} frames behind {len(text.split())} words",
        columns=[
            Column("frame_ms", "a frame", "ms"),
            Column("whole_ms", "a whole request over its frames", "ms"),
            Column("first_ms", f"first sound, chunks of {chunk}", "ms", 1),
        ],
        rows=[row],
        notes=[
            f"A frame: what {frames} frames took longer than {short}, over the difference; its part of decoding "
            f"the sound is in it. {repeats} rounds.",
        ],
    )
    return Report("faster", provenance.collect(), {"faster_qwen3_tts": version}, [table])


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="a CustomVoice checkpoint")
    parser.add_argument("--frames", type=int, default=112)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=4, help="frames of a streamed chunk")
    parser.add_argument(
        "--sentences", type=int, default=1, help="of text: more put the frames further behind the prompt"
    )
    parser.add_argument("--json", type=Path, help="write the report there")
    arguments = parser.parse_args()
    config = json.loads((arguments.checkpoint / "config.json").read_text())
    report = measure(
        load(arguments.checkpoint),
        next(iter(config["talker_config"]["spk_id"])),
        text=" ".join([SENTENCE] * arguments.sentences),
        frames=arguments.frames,
        repeats=arguments.repeats,
        chunk=arguments.chunk,
    )
    print(as_text(report, terminal=False))
    if arguments.json:
        report.write_json(arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
