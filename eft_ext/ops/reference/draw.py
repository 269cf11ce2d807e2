"""Filters by integer mass, and the walk from 64 random bits to a token (numerics.md §4 and §5)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from eft_ext.ops.reference.arithmetic import log2
from eft_ext.ops.reference.distribution import top_k_survivors
from eft_ext.ops.reference.mass import TILE, Masses, mass_threshold, masses, nucleus, ranked, tiled
from eft_ext.ops.reference.options import RowOptions
from eft_ext.ops.reference.philox import MASK_64, row_seed


class SurvivorMasses(NamedTuple):
    """The tokens that the filters keep, and their mass."""

    kept: Tensor  # [B, V] bool
    weight: Tensor  # [B, T, 1024] int64, survivors' mass at their tile's reference, 0 elsewhere
    share: Tensor  # [B, T] int64, survivors' W_T >> (A - a_T)
    mass: Masses


def survivors(t: Tensor, options: RowOptions) -> SurvivorMasses:
    """Top-k, top-p and min-p by integer mass. t: fp32 [B, V], finite or -inf; options of the same B rows."""
    mass = masses(t)
    at_tile = mass.at_tile()
    order = ranked(t)
    kept = top_k_survivors(t, order, options.top_k)

    total = mass.shares(torch.where(tiled(kept, 0), at_tile, 0).sum(dim=2)).sum(dim=1)
    at_row = mass.at_row().flatten(1)[:, : t.shape[1]]
    prefix = nucleus(order, at_row, kept, mass_threshold(options.top_p, total))
    kept = torch.where((options.top_p < 1)[:, None], prefix, kept)

    offset = torch.tensor([log2(p) if p > 0 else -math.inf for p in options.min_p.tolist()], dtype=torch.float64)
    kept &= t >= (t.amax(dim=1) + offset.to(t.device, torch.float32))[:, None]

    weight = torch.where(tiled(kept, 0), at_tile, 0)
    return SurvivorMasses(kept, weight, mass.shares(weight.sum(dim=2)), mass)


def row_keys(seed: int | Tensor | None, batch: int) -> list[int]:
    """One Philox key per row, uint64."""
    if isinstance(seed, Tensor) and seed.ndim == 1:
        if seed.shape[0] != batch or seed.is_floating_point():
            raise ValueError(f"seed: expected an int or int64 [{batch}], got {seed.dtype} {list(seed.shape)}")
        return [s & MASK_64 for s in seed.tolist()]
    return [row_seed(int(seed or 0), b) for b in range(batch)]


def draw(survivors: SurvivorMasses, bits: list[int]) -> Tensor:
    """The token that each row's 64 random bits point at, int64 [B]."""
    distance = survivors.mass.row_n[:, None] - survivors.mass.tile_n
    return torch.tensor(
        [_walk(survivors.weight[b], survivors.share[b], distance[b], bits[b]) for b in range(len(bits))],
        device=survivors.share.device,
    )


def _walk(weight: Tensor, share: Tensor, distance: Tensor, bits: int) -> int:
    """The tile where the running mass exceeds r, then the token in it. weight: [T, 1024], share: [T]."""
    product = bits * int(share.sum())
    r, low = product >> 64, product & MASK_64
    running = share.cumsum(dim=0)
    tile = int((running > r).int().argmax())
    rest = r - int(running[tile] - share[tile])
    d = int(distance[tile])
    rest = (rest << d) | (low >> (64 - d))
    return tile * TILE + int((weight[tile].cumsum(dim=0) > rest).int().argmax())
