"""The mass of a row in integers (numerics.md §3): exact sums, the same in every order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from eft_ext.ops.reference.arithmetic import fma32

TILE = 1024  # consecutive ids
REACHED = 1 - 2.0**-21  # the share of top_p that a mass has to reach (numerics.md §4)

# 2^f on [0, 1], highest degree first.
POLYNOMIAL = tuple(
    float.fromhex(c)
    for c in ("0x1.e97502p-10", "0x1.277854p-7", "0x1.c91ce6p-5", "0x1.ebdb56p-3", "0x1.62e4bap-1", "0x1p0")
)


def exp2_fraction(f: Tensor) -> Tensor:
    """P(f), which stands for 2^f with f in [0, 1]: fp32, Horner by fma."""
    p = torch.full_like(f, POLYNOMIAL[0])
    for c in POLYNOMIAL[1:]:
        p = fma32(p, f, torch.full_like(f, c))
    return p


class Masses(NamedTuple):
    """The rows of t cut into T = ceil(V / 1024) tiles; an excluded token has exponent -inf and no mass."""

    n: Tensor  # [B, T, 1024] fp32, floor(t)
    m: Tensor  # [B, T, 1024] int64, 24-bit significands
    tile_n: Tensor  # [B, T] fp32, a_T, the largest n of the tile
    row_n: Tensor  # [B] fp32, A, the largest n of the row

    def at_tile(self) -> Tensor:
        """w at each tile's own reference, int64 [B, T, 1024], in units of 2^(a_T - 40)."""
        return self._at(self.tile_n[:, :, None])

    def at_row(self) -> Tensor:
        """w at the row's reference A, int64 [B, T, 1024]."""
        return self._at(self.row_n[:, None, None])

    def _at(self, reference: Tensor) -> Tensor:
        # m << 17 is below 2^41, so a shift by 41 is the 0 that a - n > 40 asks for.
        return (self.m << 17) >> _shift(reference - self.n, 41)

    def shares(self, tile_mass: Tensor) -> Tensor:
        """W_T >> (A - a_T), int64 [B, T]; their sum is a row's mass in units of 2^(A - 40)."""
        return tile_mass >> _shift(self.row_n[:, None] - self.tile_n, 63)


def _shift(distance: Tensor, limit: int) -> Tensor:
    """An fp32 distance between exponents as an int64 shift of at most `limit`; NaN (both -inf) is `limit`."""
    return torch.where(distance < limit, distance, limit).long()


def tiled(row: Tensor, fill: float) -> Tensor:
    """[B, V] cut into tiles, [B, T, 1024]; the last one is filled up with `fill`."""
    missing = -row.shape[1] % TILE
    return torch.nn.functional.pad(row, (0, missing), value=fill).unflatten(1, (-1, TILE))


def masses(t: Tensor) -> Masses:
    """Masses of t, fp32 [B, V] in base-2 logits: finite, or -inf where excluded."""
    tiles = tiled(t, float("-inf"))
    n = tiles.floor()
    f = torch.where(n.isfinite(), tiles - n, 0.0)
    m = torch.where(n.isfinite(), (exp2_fraction(f) * 2.0**23).long(), 0)
    tile_n = n.amax(dim=2)
    return Masses(n, m, tile_n, tile_n.amax(dim=1))


def ranked(t: Tensor) -> Tensor:
    """Token ids by rank: t descending, then id ascending, int64 [B, V]."""
    return torch.argsort(t, dim=1, descending=True, stable=True)


def nucleus(order: Tensor, weight: Tensor, alive: Tensor, threshold: Tensor) -> Tensor:
    """The tokens of `alive` that fewer than `threshold` units of mass outrank, and rank 0; bool [B, V].

    order: int64 [B, V] as of `ranked`; weight: int64 [B, V], w_A; alive: bool [B, V], a prefix of the rank;
    threshold: int64 [B].
    """
    in_order = torch.where(alive, weight, 0).gather(1, order)
    above = in_order.cumsum(dim=1) - in_order
    kept = above < threshold[:, None]
    kept[:, 0] = True
    return torch.zeros_like(alive).scatter(1, order, kept) & alive


def mass_threshold(p: Tensor, mass: Tensor) -> Tensor:
    """ceil(p_fix·mass / 2^32) with p_fix = floor(2^32·p·REACHED); p fp32 [B] below 1, mass int64 [B]."""
    fixed = [int(x * 2.0**32) for x in (p.double() * REACHED).tolist()]  # 45 bits at most, so exact before the floor
    units = [-(-a * b >> 32) for a, b in zip(fixed, mass.tolist(), strict=True)]
    return torch.tensor(units, dtype=torch.int64, device=mass.device)
