"""One random stream per row: keys for the counter-based generator of the fused step."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from eft_ext.ops.reference import row_seed

Seed = int | Sequence[int] | Tensor


def row_seeds(seed: Seed | None, rows: int) -> Tensor:
    """Keys [rows], int64, on the CPU.

    A number gives row b the (b+1)-th output of SplitMix64 (Steele, Lea, Flood 2014), as the fused step does,
    fixed here because rows that end leave the batch. A list or tensor is one key per returned sequence and
    then the batch slot has no influence. None draws from torch's default generator (`torch.manual_seed`).

    Raises:
        ValueError: not one seed per returned sequence.
        TypeError: not an integer.
    """
    if seed is None:
        seed = int(torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, device="cpu"))
    keys = _keys(seed, rows)
    if len(keys) != rows:
        raise ValueError(f"seed: expected a number or {rows} of them, one per returned sequence, got {len(keys)}")
    return torch.tensor([_signed(key) for key in keys], dtype=torch.int64, device="cpu")


def _keys(seed: Any, rows: int) -> list[int]:
    given = seed.tolist() if isinstance(seed, Tensor) else seed  # a number where it has no dimensions
    if isinstance(given, Iterable) and not isinstance(given, (str, bytes)) and getattr(given, "ndim", 1) > 0:
        return [_integer(key, seed) for key in given]
    number = _integer(given, seed)
    return [row_seed(number, row) for row in range(rows)]


def _integer(value: Any, seed: Any) -> int:
    """`value` of `seed` as Python's integer: numpy's and tensors' are integers too, rounded numbers are not."""
    is_bool = isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype == torch.bool)
    try:
        if not is_bool:
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"seed: expected an integer or one per row, got {seed!r}")


def _signed(key: int) -> int:
    key &= 2**64 - 1
    return key - 2**64 if key >= 2**63 else key
