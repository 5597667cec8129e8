"""How the products of a GPU's convolutions are cut into tiles."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Tile(NamedTuple):
    """How a product is cut: rows, output channels and input channels at a time; warps, and loads in flight."""

    rows: int
    outs: int
    ins: int
    warps: int
    stages: int
    #: Tiles for each multiprocessor from which on it is as fast as it gets.
    least: float = 0.65


#: From large to small: a larger one reads less, a smaller one keeps more multiprocessors busy. Measured on an H200
#: for every product of the published geometry, 1 to 128 frames. Larger ones than these spill registers in what follows
#: the product.
CUDA = {
    torch.float32: (
        Tile(128, 128, 32, 8, 3),
        Tile(128, 64, 32, 4, 3, least=1.3),
        Tile(128, 64, 32, 8, 3),
        Tile(64, 64, 32, 4, 3),
        Tile(64, 32, 32, 4, 4),
        Tile(32, 64, 32, 4, 4),
        Tile(16, 64, 64, 4, 3),
        Tile(16, 32, 64, 4, 4),
    ),
    torch.bfloat16: (
        Tile(128, 128, 64, 8, 3),
        Tile(128, 64, 64, 4, 3),
        Tile(64, 64, 64, 4, 4),
        Tile(32, 64, 64, 4, 4),
        Tile(16, 64, 128, 4, 4),
        Tile(16, 32, 128, 4, 4),
    ),
}
#: ROCm, whose multiprocessors have less memory of their own. Not measured; none of them spills registers
#: when compiled for gfx1151, where 64 x 64 of float32 did.
_ROCM_SMALL = (
    Tile(32, 64, 32, 4, 2),
    Tile(16, 64, 32, 4, 2),
    Tile(16, 32, 32, 4, 2),
)
ROCM = {torch.float32: _ROCM_SMALL, torch.bfloat16: (Tile(64, 64, 32, 4, 2), *_ROCM_SMALL)}
#: A tile that computes more than so many times what is needed is too large: beside others, and alone in its row.
_PADDING, _PADDING_ALONE = 1.25, 1.35
#: The matrix units take no fewer rows.
LEAST_ROWS = 16


def choose(tiles: tuple[Tile, ...], rows: int, width: int, multiprocessors: int) -> Tile:
    """For a product of ``rows`` rows (all streams') and ``width`` output channels."""

    def fits(tile: Tile) -> bool:
        down, across = -(-rows // tile.rows), -(-width // tile.outs)
        allowed = _PADDING_ALONE if across == 1 else _PADDING
        wide = across * tile.outs > allowed * width
        high = tile.rows > LEAST_ROWS and down * tile.rows > _PADDING * rows
        return not wide and not high and down * across >= tile.least * multiprocessors

    return next((tile for tile in tiles if fits(tile)), tiles[-1])
