"""Sizes of the launches, by vocabulary and batch. No tuning at call time: the first call compiles and that is all."""

from __future__ import annotations

from typing import NamedTuple

TILE = 1024


class LaunchSizes(NamedTuple):
    """The cut of the work. None of it can change a token."""

    tiles: int  # tiles per program of the slices' launch
    slots: int  # candidates a tile can list
    group: int  # tiles read again together
    slices_warps: int
    rows_warps: int

    def for_more(self) -> LaunchSizes:
        """For details or re-weighting, whose rows' launch needs registers for other things."""
        return self._replace(slots=max(self.slots // 2, 2), group=1)


# (vocabulary up to, batch up to): sizes. Every entry is an estimate (docs/gpu.md has the measurements).
# - tiles: few rows want every SM busy, one tile a program; many rows want fewer programs to launch.
# - slots x tiles = 4096 candidates, 8 for each of the rows program's threads; group 2 = 4 tokens for each. Twice of
#   either spills registers (docs/internals/triton-step.md).
_ANY = 1 << 62
TABLE: list[tuple[int, int, LaunchSizes]] = [
    (1_024, _ANY, LaunchSizes(tiles=1, slots=256, group=1, slices_warps=4, rows_warps=4)),
    (4_096, _ANY, LaunchSizes(tiles=1, slots=256, group=2, slices_warps=4, rows_warps=8)),
    (32_768, 32, LaunchSizes(tiles=1, slots=128, group=2, slices_warps=4, rows_warps=16)),
    (32_768, _ANY, LaunchSizes(tiles=2, slots=128, group=2, slices_warps=4, rows_warps=16)),
    (131_072, 16, LaunchSizes(tiles=1, slots=32, group=2, slices_warps=4, rows_warps=16)),
    (131_072, _ANY, LaunchSizes(tiles=4, slots=32, group=2, slices_warps=4, rows_warps=16)),
    (262_144, 8, LaunchSizes(tiles=1, slots=16, group=2, slices_warps=4, rows_warps=16)),
    (262_144, _ANY, LaunchSizes(tiles=4, slots=16, group=2, slices_warps=4, rows_warps=16)),
    (524_288, _ANY, LaunchSizes(tiles=4, slots=8, group=2, slices_warps=4, rows_warps=16)),
    (_ANY, _ANY, LaunchSizes(tiles=8, slots=4, group=2, slices_warps=4, rows_warps=16)),
]


def num_tiles(vocab_size: int) -> int:
    return -(-vocab_size // TILE)


def sizes_for(vocab_size: int, batch: int) -> LaunchSizes:
    return next(sizes for vocab, rows, sizes in TABLE if vocab_size <= vocab and batch <= rows)
