"""Sizes of the launches, by vocabulary and batch. No tuning at call time: the first call compiles and that is all."""

from __future__ import annotations

from typing import NamedTuple

TILE = 1024


class Blocks(NamedTuple):
    """How the work is cut. None of it can change a token."""

    tiles: int  # tiles per program of the slices' launch
    slots: int  # candidates a tile can list
    group: int  # tiles read again together
    slices_warps: int
    rows_warps: int


# (vocabulary up to, batch up to): blocks. Every entry is estimated: none has been timed on a device.
# - tiles: few rows want every SM busy, one tile a program; many rows want fewer programs than are worth launching.
# - slots: tiles x slots = 8192 candidates, 16 registers for each of the rows program's 512 threads.
_ANY = 1 << 62
TABLE: list[tuple[int, int, Blocks]] = [
    (1_024, _ANY, Blocks(1, 256, 1, 4, 4)),
    (4_096, _ANY, Blocks(1, 256, 4, 4, 4)),
    (32_768, 32, Blocks(1, 128, 4, 4, 8)),
    (32_768, _ANY, Blocks(2, 128, 4, 4, 8)),
    (131_072, 16, Blocks(1, 64, 4, 4, 16)),
    (131_072, _ANY, Blocks(4, 64, 4, 4, 16)),
    (262_144, 8, Blocks(1, 32, 4, 4, 16)),
    (262_144, _ANY, Blocks(4, 32, 4, 4, 16)),
    (_ANY, _ANY, Blocks(8, 16, 4, 4, 16)),
]


def num_tiles(vocab_size: int) -> int:
    return -(-vocab_size // TILE)


def blocks_for(vocab_size: int, batch: int) -> Blocks:
    return next(blocks for vocab, rows, blocks in TABLE if vocab_size <= vocab and batch <= rows)
