"""Inputs of the golden vectors, made from integers alone: the same bits with any torch, on any machine.

A logit is k/64 with a small integer k, exact in fp32; bf16 and fp16 round it once (both conversions are exact IEEE
rounding to nearest). The integers come from SplitMix64, a counter-based generator of three multiplications, so nothing
depends on a library's random numbers, logarithms or sort. What makes a row peaked, tied or broad is integer arithmetic.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
KINDS = (
    "broad",
    "peaked",
    "ties",
    "equal",
    "steps",
    "masked",
    "lowest",
    "spread",
    "tiny",
    "huge",
    "nan",
    "inf",
    "none",
)


def splitmix64(seed: int, count: int) -> np.ndarray:
    """The first `count` outputs of SplitMix64 started at `seed`, uint64."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _integers(seed: int, shape: tuple[int, int], low: int, high: int) -> np.ndarray:
    """Integers in [low, high], the sum of four uniform ones, hence more in the middle."""
    words = splitmix64(seed, 4 * shape[0] * shape[1]).reshape(4, *shape)
    span = np.uint64(high - low + 4)
    parts = (words >> np.uint64(33)) % (span // np.uint64(4))
    return parts.astype(np.int64).sum(axis=0) + low


def rows(kind: str, batch: int, vocab: int, dtype: str, seed: int) -> Tensor:
    """Logits [batch, vocab] of a kind in KINDS."""
    shape, target = (batch, vocab), DTYPES[dtype]
    ids = np.broadcast_to(np.arange(vocab), shape)
    k = _integers(seed, shape, -256, 256)  # in units of 1/64: four nats to either side
    chance = (splitmix64(seed ^ 0x5EED, batch * vocab).reshape(shape) >> np.uint64(33)).astype(np.int64) % 1000
    if kind in ("peaked", "masked", "lowest", "nan", "inf", "none"):
        # A head of one token in 64, up to 12 nats above the floor.
        k = np.where(chance < 16, 768 + k * (chance % 4 + 1) // 2, k)
    elif kind == "ties":
        k = (k // 64) * 64  # whole nats: nine values in all
    elif kind == "equal":
        k = np.full(shape, 96)
    elif kind == "steps":
        k = k - 576 * (ids // 1024)  # each tile nine nats below the one before
    elif kind == "spread":
        k = k * 20
    x = torch.from_numpy(k.astype(np.int32)).float() / 64
    if kind == "tiny":
        x = x * 2.0**-132  # subnormal in bf16 and fp32, zero in fp16
    elif kind == "huge":
        x = torch.where(x > 0, 1.0, -1.0) * (2.0**14 if dtype == "fp16" else 2.0**100)
    x = x.to(target)
    third = torch.from_numpy(ids % 3 == 1)
    if kind == "masked":
        x[third] = -torch.inf
    elif kind == "lowest":
        x[third] = torch.finfo(target).min
    elif kind == "nan":
        x[::2, seed % vocab] = torch.nan
    elif kind == "inf":
        x[::2, seed % vocab] = torch.inf
    elif kind == "none":
        x[::2] = -torch.inf
    return x


def bias(shape: list[int], seed: int) -> Tensor:
    """fp32, multiples of 1/64 within two nats, [V] or [B, V]."""
    k = _integers(seed, (1, int(np.prod(shape))), -128, 128)
    return (torch.from_numpy(k.astype(np.int32)).float() / 64).reshape(shape)


def token_bitmask(batch: int, vocab: int, seed: int) -> Tensor:
    """Random bitmask words, int32 [batch, ceil(vocab / 32)]; bits past the end are set at random too."""
    words = -(-vocab // 32)
    low = (splitmix64(seed, batch * words) >> np.uint64(32)).astype(np.uint32)
    return torch.from_numpy(low.view(np.int32).reshape(batch, words).copy())
