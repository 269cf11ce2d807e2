"""One random stream per row: keys for the counter-based generator of the fused step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Seed = int | Sequence[int] | Tensor


def row_seeds(seed: Seed | None, rows: int) -> Tensor:
    """Keys [rows], int64.

    A number gives row b the (b+1)-th output of SplitMix64 (Steele, Lea, Flood 2014), as the fused step does,
    fixed here because rows that end leave the batch. A list or tensor is one key per returned sequence and
    then the batch slot has no influence. None draws from torch's default generator (`torch.manual_seed`).

    Raises:
        ValueError: not one seed per returned sequence.
        TypeError: not an integer.
    """
    if seed is None:
        seed = int(torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64))
    if isinstance(seed, (bool, float)):
        raise TypeError(f"seed: expected an integer or one per row, got {seed!r}")
    if isinstance(seed, int):
        keys = [_splitmix64(seed, row) for row in range(rows)]
    else:
        if isinstance(seed, Tensor) and seed.is_floating_point():
            raise TypeError(f"seed: expected integers, got a tensor of {seed.dtype}")
        keys = [int(s) for s in (seed.tolist() if isinstance(seed, Tensor) else seed)]
        if len(keys) != rows:
            raise ValueError(f"seed: expected a number or {rows} of them, one per returned sequence, got {len(keys)}")
    return torch.tensor([_signed(key) for key in keys], dtype=torch.int64)


def _splitmix64(seed: int, index: int) -> int:
    mask = 2**64 - 1
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def _signed(key: int) -> int:
    key &= 2**64 - 1
    return key - 2**64 if key >= 2**63 else key
