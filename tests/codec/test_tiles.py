"""Which tile a product on a GPU gets; the kernels themselves run on a GPU only (``bench/codec_parity.py``)."""

from __future__ import annotations

import pytest
import torch

from qwen3_tts_service.codec.tiles import CUDA, ROCM, choose

PROCESSORS = 132


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_grows_with_the_product_and_keeps_the_processors_busy(dtype: torch.dtype) -> None:
    tiles = [choose(CUDA[dtype], rows, 384, PROCESSORS) for rows in (16, 160, 1280, 5120, 20480)]
    sizes = [tile.rows * tile.outs for tile in tiles]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    for tile, rows in zip(tiles[1:], (160, 1280, 5120, 20480), strict=True):
        assert -(-rows // tile.rows) * -(-384 // tile.outs) >= 0.65 * PROCESSORS


@pytest.mark.parametrize("width", [96, 192, 288, 384, 768, 1536, 1920, 6144])
@pytest.mark.parametrize("tiles", [CUDA[torch.float32], CUDA[torch.bfloat16], *ROCM.values()])
def test_it_computes_little_that_is_not_needed(tiles: tuple, width: int) -> None:  # type: ignore[type-arg]
    tile = choose(tiles, 20480, width, PROCESSORS)
    assert -(-width // tile.outs) * tile.outs <= 1.35 * width


def test_what_fits_no_tile_gets_the_smallest() -> None:
    assert choose(CUDA[torch.float32], 1, 8, PROCESSORS) == CUDA[torch.float32][-1]
