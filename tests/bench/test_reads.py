"""Bytes and operators of a program are counted as the program runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from host_needs import needs_compiler
from qwen3_tts_service.bench import reads
from qwen3_tts_service.bench.floors import LanguageModelFloor
from qwen3_tts_service.checkpoints.load import load
from qwen3_tts_service.engine.frame import FrameModel

WEIGHT = torch.ones(8, 4)
TABLE = torch.ones(100, 4)
CACHE = torch.zeros(2, 10, 4)


def test_weights_are_read_whole_and_tables_by_row() -> None:
    rows = torch.tensor([3, 5])

    def program() -> None:
        x = torch.nn.functional.embedding(rows, TABLE)
        torch.nn.functional.linear(x, WEIGHT)

    counted = reads.count(program, [WEIGHT, TABLE])
    assert counted.bytes == (2 * 4 + 8 * 4) * 4
    assert counted.operators == 2


def test_only_the_used_part_of_a_cache_is_read_and_writing_is_not_reading() -> None:
    def program() -> None:
        CACHE[:, 3] = 1.0
        CACHE[:, :5].sum()

    assert reads.count(program, [CACHE]).bytes == 2 * 5 * 4 * 4


def test_reading_twice_counts_twice() -> None:
    assert reads.count(lambda: (WEIGHT.sum(), WEIGHT.sum()), [WEIGHT]).bytes == 2 * WEIGHT.nbytes


@dataclass
class Holder:
    weights: list[torch.Tensor]
    named: dict[str, torch.Tensor]
    itself: object = None


def test_tensors_are_found_in_lists_and_dicts_and_behind_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Holder, "__module__", "qwen3_tts_service.stand_in")
    holder = Holder([WEIGHT], {"a": TABLE})
    holder.itself = holder
    assert {id(tensor) for tensor in reads.tensors_of(holder)} == {id(WEIGHT), id(TABLE)}


@pytest.mark.parametrize("bytes_a_weight", [4, pytest.param(2, marks=needs_compiler)])
def test_a_frame_reads_little_more_than_the_floor(
    tiny_checkpoint: Path, tmp_path: Path, bytes_a_weight: int
) -> None:
    model = load(tiny_checkpoint, device="cpu", cpu_threads=1)
    floor = LanguageModelFloor.of(model.checkpoint.config)
    kernels = tmp_path if bytes_a_weight == 2 else None
    frames = FrameModel(model, slots=2, positions=256, max_trailing=8, kernels=kernels)
    assert frames.bytes_a_weight == bytes_a_weight
    with torch.inference_mode():
        counted = reads.count(lambda: frames.frame(2, 200), reads.tensors_of(frames))
    cost = floor.frame(batch=2, length=200, bytes_a_number=4, bytes_a_weight=bytes_a_weight)
    # Tiny vectors and masks weigh more here than in a real geometry, where at most 1.05 is allowed.
    assert 1.0 <= counted.bytes / cost.bytes < 1.15
