"""Options on entry: a scalar or a tensor [B] becomes one value per row, and a bad one marks its row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

GREEDY_BELOW = 2.0**-20  # temperatures in [0, 2^-20) are greedy


class RowOptions(NamedTuple):
    """The sampling options of a batch, one value per row, and the rows whose options are all good."""

    temperature: Tensor  # [B] fp32
    top_k: Tensor  # [B] int64, 0 is off
    top_p: Tensor  # [B] fp32, 1 is off
    min_p: Tensor  # [B] fp32, 0 is off
    good: Tensor  # [B] bool

    @property
    def greedy(self) -> Tensor:
        """[B] bool: rows that take the largest z."""
        return (self.temperature >= 0) & (self.temperature < GREEDY_BELOW)


def per_row(
    name: str,
    value: float | Tensor,
    like: Tensor,
    dtype: torch.dtype,
    accept: Callable[[Tensor], Tensor],
    expected: str,
) -> tuple[Tensor, Tensor]:
    """The option as `dtype` [B] and where it is good, bool [B]; `like` is a tensor [B, ...] on the device.

    A bad number raises `ValueError` here. A bad element of a tensor only marks its row, since looking at it
    would synchronise a device.
    """
    batch = like.shape[0]
    if isinstance(value, Tensor):
        if value.ndim > 1 or (value.ndim == 1 and value.shape[0] != batch):
            raise ValueError(f"{name}: expected a scalar or a tensor [{batch}], got {list(value.shape)}")
        if dtype == torch.int64 and value.is_floating_point():
            raise TypeError(f"{name}: expected an integer tensor, got {value.dtype}")
        rows = value.to(like.device, dtype).expand(batch)
        return rows, accept(rows)
    exact = torch.int64 if dtype == torch.int64 else torch.float64
    number = torch.tensor(value, dtype=exact).to(dtype)
    if not bool(accept(number)):
        raise ValueError(f"{name}: expected {expected}, got {value}")
    rows = number.to(like.device).expand(batch)
    return rows, torch.ones(batch, dtype=torch.bool, device=like.device)


def unit_interval(p: Tensor) -> Tensor:
    """True where 0 ≤ p ≤ 1; NaN is false."""
    return (p >= 0) & (p <= 1)


def not_negative(value: Tensor) -> Tensor:
    """True where value ≥ 0; NaN is false."""
    return value >= 0


def sampling_options(
    like: Tensor,
    temperature: float | Tensor,
    top_k: int | Tensor,
    top_p: float | Tensor,
    min_p: float | Tensor,
) -> RowOptions:
    """The four sampling options per row of `like` [B, ...]; floating ones are rounded to fp32 first."""
    f32, i64 = torch.float32, torch.int64
    temperature, temperature_good = per_row(
        "temperature", temperature, like, f32, lambda x: (x >= 0) & x.isfinite(), "a finite number >= 0"
    )
    k, k_good = per_row("top_k", top_k, like, i64, not_negative, "an integer >= 0")
    p, p_good = per_row("top_p", top_p, like, f32, unit_interval, "a number in [0, 1]")
    low, low_good = per_row("min_p", min_p, like, f32, unit_interval, "a number in [0, 1]")
    return RowOptions(temperature, k, p, low, temperature_good & k_good & p_good & low_good)


def weight_rows(weights: Tensor | Sequence[float | Tensor], count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Weights as fp32 [B, K] and the rows where all are finite, bool [B].

    `weights` is a tensor [K] or [B, K], or a sequence of K numbers or tensors [B].
    """
    batch = like.shape[0]
    if isinstance(weights, Tensor):
        if weights.ndim not in (1, 2) or weights.shape[-1] != count:
            raise ValueError(f"weights: expected [{count}] or [{batch}, {count}], got {list(weights.shape)}")
        if weights.ndim == 2 and weights.shape[0] != batch:
            raise ValueError(f"weights: expected [{batch}, {count}], got {list(weights.shape)}")
        rows = weights.to(like.device, torch.float32).expand(batch, count)
        return rows, rows.isfinite().all(dim=1)
    if len(weights) != count:
        raise ValueError(f"weights: expected {count}, one for each logits tensor, got {len(weights)}")
    columns = [
        per_row(f"weights[{k}]", w, like, torch.float32, torch.isfinite, "a finite number")
        for k, w in enumerate(weights)
    ]
    good = torch.stack([good for _, good in columns]).all(dim=0)
    return torch.stack([column for column, _ in columns], dim=1), good
