"""Is the codec's sound on this device upstream's, however the frames are divided?

Upstream's own decoder hears all frames at once, on the same device in float32; ours hears them in random
pieces, beside other streams that stand elsewhere: about as far at first, then streams of over 24 s (what upstream's
own decoder of long speech takes at a time) that begin one well after the other.
"""

from __future__ import annotations

import random
from typing import Any

import torch

from ..checkpoints.load import choose_device, codec_kernels, load
from ..codec.streaming import StreamingDecoder
from . import provenance
from .plan import Plan
from .report import Cell, Column, Report, Table

#: The largest difference over the standard deviation of upstream's sound. Both are float32, the order of summation
#: differs.
_ALLOWED = 1e-4
_STREAMS = 3
_SCHEDULES = 5
#: 26.4 s, and how many frames of them are heard before the next stream begins.
_LONG_FRAMES, _APART = 330, 100


def run(plan: Plan) -> Report:
    """Compare over ``plan.frames`` frames of three streams, and once over 330, which begin 100 frames apart.

    The report's ``passed`` says whether all held.
    """
    on_gpu = choose_device(plan.device).type == "cuda"
    model = load(
        plan.checkpoint,
        device=plan.device,
        codec_device="gpu" if on_gpu else "cpu",
        cpu_threads=plan.cpu_threads,
    )
    device = model.codec_device
    decoder: Any = model.upstream.model.speech_tokenizer.model.decoder
    shape = (_STREAMS, decoder.config.num_quantizers, max(plan.frames, _LONG_FRAMES))
    codes = torch.randint(0, decoder.config.codebook_size, shape, generator=torch.Generator().manual_seed(0))
    codes = codes.to(device)
    rows: list[dict[str, Cell]] = []
    facts: dict[str, Any] = {"codec_device": str(device)}

    def report() -> Report:
        return Report("codec_parity", provenance.collect(), facts, [_table(rows)])

    with codec_kernels(device), torch.inference_mode():
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        plan.say("upstream's decoder, all frames at once")
        # Upstream's first: it is not used once ours is made of it.
        wanted = {
            frames: torch.cat([decoder(stream[None, :, :frames])[:, 0].float() for stream in codes])
            for frames in (plan.frames, _LONG_FRAMES)
        }
        ours = StreamingDecoder(decoder, device=device)
        facts["decoder"] = f"{ours.way} ({ours.reason})"
        for captured in (False, True) if on_gpu else (False,):
            if captured:
                # Some of the sizes: graphs and plain launches take turns on the same streams.
                ours.prepare([(streams, frames) for streams in (1, _STREAMS) for frames in (1, 4, 8)])
                facts["decoder"] += f", then {ours.way} ({ours.reason})"
            for number in range(_SCHEDULES + 1):
                frames, apart = (plan.frames, 0) if number < _SCHEDULES else (_LONG_FRAMES, _APART)
                chance = random.Random(number)  # noqa: S311 - sizes of pieces
                pieces, sound = _in_pieces(ours, codes[..., :frames], chance, apart=apart)
                row = _judged(sound, wanted[frames])
                row |= {"way": ours.way, "frames": frames, "apart": apart, "pieces": pieces}
                rows.append(row)
                facts["passed"] = all(row["passed"] != "NO" for row in rows)
                plan.say(_table(rows).line(row))
                plan.keep(report())
    return report()


def _in_pieces(
    decoder: StreamingDecoder, codes: torch.Tensor, chance: random.Random, *, apart: int
) -> tuple[int, torch.Tensor]:
    """Sound [streams, samples] of streams in pieces of 1 to 20 frames, and how many calls that took.

    A stream begins when the one before it is ``apart`` frames ahead.
    """
    streams, _, frames = codes.shape
    states = [decoder.new_state() for _ in range(streams)]
    heard, parts, pieces = [0] * streams, [[] for _ in range(streams)], 0  # type: ignore[var-annotated]
    while min(heard) < frames:
        size = chance.choice((1, 1, 2, 4, 4, 7, 8, 16, 20))
        may = [
            stream
            for stream in range(streams)
            if heard[stream] < frames and (stream == 0 or heard[stream] or heard[stream - 1] >= apart)
        ]
        least = min(may, key=lambda stream: heard[stream])
        together = [
            stream
            for stream in may
            if heard[stream] + size <= frames and (chance.random() < 0.6 or heard[stream] == heard[least])
        ]
        if not together:
            # The last ones, one by one: what is left of a stream may be less than any piece.
            together = [least]
            size = min(size, frames - heard[least])
        batch = torch.cat(
            [codes[stream : stream + 1, :, heard[stream] : heard[stream] + size] for stream in together]
        )
        sound = decoder.decode(batch, [states[stream] for stream in together])
        for row, stream in enumerate(together):
            parts[stream].append(sound[row])
            heard[stream] += size
        pieces += 1
    return pieces, torch.stack([torch.cat(part) for part in parts])


def _judged(sound: torch.Tensor, wanted: torch.Tensor) -> dict[str, Cell]:
    difference, size = sound.float() - wanted, float(wanted.std())
    error, worst = float(difference.pow(2).mean().sqrt()) / size, float(difference.abs().max()) / size
    holds = worst <= _ALLOWED
    return {
        "error": error,
        "worst": worst,
        "passed": "yes" if holds else "NO",
    }


def _table(rows: list[dict[str, Cell]]) -> Table:
    return Table(
        name="codec_parity",
        title=f"The codec beside upstream's decoder, {_STREAMS} streams in random pieces",
        columns=[
            Column("way", "way"),
            Column("frames", "frames"),
            Column("apart", "begin apart"),
            Column("pieces", "pieces"),
            Column("error", "error", digits=8),
            Column("worst", "worst", digits=7),
            Column("passed", "holds"),
        ],
        rows=rows,
        notes=[
            "Errors over the standard deviation of upstream's sound, which is one pass over all frames in fp32 "
            f"on the same device: root mean square, and that of the worst sample, of which {_ALLOWED:g} is allowed.",
        ],
    )
