"""Rows of logits worth trying (numerics.md §14) and sets of options to try them with.

Every generator takes (batch, vocab_size, dtype, seed) and gives [batch, vocab_size] on the CPU. Seeds of one
block of 16 share the ranking of `lm`, as the models of one mixture would: `models` counts within a block.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Generator = Callable[[int, int, torch.dtype, int], Tensor]

BLOCK = 16


def _noise(batch: int, vocab: int, seed: int) -> Tensor:
    return torch.randn(batch, vocab, generator=torch.Generator().manual_seed(seed))


def lm(batch: int, vocab: int, dtype: torch.dtype, seed: int) -> Tensor:
    """A Zipf head of 1000 tokens over a broad floor, as a language model's: over 30 nats in all."""
    ranking = _noise(batch, vocab, 1_000_003 + seed // BLOCK).argsort(dim=1)
    head = 20.0 - 1.7 * torch.log(ranking + 1.0) + 0.3 * _noise(batch, vocab, seed + 500_009)
    floor = -2.0 + 3.0 * _noise(batch, vocab, seed)
    return torch.where(ranking < 1000, head, floor).to(dtype)


def flat(batch: int, vocab: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Nearly uniform: noise of a hundredth of a nat."""
    return (0.01 * _noise(batch, vocab, seed)).to(dtype)


def equal(batch: int, vocab: int, dtype: torch.dtype, seed: int) -> Tensor:
    """All tokens tie."""
    return torch.full((batch, vocab), 1.5 + seed % 3, dtype=dtype)


def one_hot(batch: int, vocab: int, dtype: torch.dtype, seed: int) -> Tensor:
    """One token 60 nats above the others: it alone has integer mass."""
    hot = torch.arange(batch) * 7919 % vocab
    return 60.0 * torch.nn.functional.one_hot(hot, vocab).to(dtype)


def two_level(batch: int, vocab: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Two values, a third of the tokens on the upper one: every cut falls among ties."""
    return 2.0 * (_noise(batch, vocab, seed) > 0.43).to(dtype)


def bf16_ties(batch: int, vocab: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Few distinct values, as bf16 logits around 16 have: ties everywhere in the rank."""
    return (16.0 + 3.0 * _noise(batch, vocab, seed)).bfloat16().to(dtype)


def masked(batch: int, vocab: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Like `lm`, with a third at -inf and a third at the dtype's lowest value; token 0 always stays."""
    x = lm(batch, vocab, dtype, seed)
    part = torch.arange(vocab) % 3
    x[:, part == 1] = -torch.inf
    x[:, part == 2] = torch.finfo(dtype).min
    return x


def excluded(batch: int, vocab: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Odd rows have nothing left."""
    return _spoil_odd_rows(lm(batch, vocab, dtype, seed), slice(None), -torch.inf)


def nan(batch: int, vocab: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Odd rows hold one NaN."""
    return _spoil_odd_rows(lm(batch, vocab, dtype, seed), seed * 31 % vocab, torch.nan)


def inf(batch: int, vocab: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Odd rows hold one +inf."""
    return _spoil_odd_rows(lm(batch, vocab, dtype, seed), seed * 31 % vocab, torch.inf)


def huge(batch: int, vocab: int, dtype: torch.dtype, seed: int) -> Tensor:
    """±1e30 (±3e4 in fp16) at random: exponents that no integer holds, differences that swallow all else."""
    size = min(1e30, torch.finfo(dtype).max / 2)
    return (size * _noise(batch, vocab, seed).sign()).to(dtype)


def subnormal(batch: int, vocab: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Below the dtype's smallest normal number, zeros of both signs among them."""
    x = torch.finfo(dtype).tiny * 0.1 * _noise(batch, vocab, seed)
    return (x * (torch.arange(vocab) % 5 > 0)).to(dtype)


def wide(batch: int, vocab: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Spread over 150 nats: most tokens have no mass, and tiles differ in their reference."""
    return (30.0 * _noise(batch, vocab, seed)).to(dtype)


def cliffs(batch: int, vocab: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Each tile of 1024 is 9 nats below the one before: shares shift by 13, 26, 39, then past the end."""
    steps = 9.0 * (torch.arange(vocab) // 1024)
    return (_noise(batch, vocab, seed) - steps).to(dtype)


def _spoil_odd_rows(x: Tensor, where: int | slice, value: float) -> Tensor:
    x[1::2, where] = value
    return x


ROWS: dict[str, Generator] = {
    generator.__name__: generator
    for generator in (
        lm,
        flat,
        equal,
        one_hot,
        two_level,
        bf16_ties,
        masked,
        excluded,
        nan,
        inf,
        huge,
        subnormal,
        wide,
        cliffs,
    )
}

STEP_OPTIONS: dict[str, dict[str, float]] = {
    "plain": {},
    "greedy": {"temperature": 0.0},
    "subnormal_temperature": {"temperature": 1e-40},
    "coldest": {"temperature": 2.0**-20},
    "cold": {"temperature": 0.1},
    "warm": {"temperature": 0.7},
    "hot": {"temperature": 3.0, "top_p": 0.99},
    "hottest": {"temperature": 1e4},
    "top_p_95": {"top_p": 0.95},
    "top_p_90": {"top_p": 0.9},
    "top_p_50": {"top_p": 0.5},
    "top_p_0": {"top_p": 0.0},
    "top_k_50": {"top_k": 50},
    "top_k_1": {"top_k": 1},
    "top_k_beyond": {"top_k": 1_000_000},
    "min_p_05": {"min_p": 0.05},
    "min_p_1": {"min_p": 1.0},
    "all": {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "min_p": 0.05},
}


def models(
    name: str, count: int, batch: int, vocab: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[Tensor]:
    """`count` models' logits for one mixture, from the generator `name`."""
    return [ROWS[name](batch, vocab, dtype, BLOCK * seed + k) for k in range(count)]
