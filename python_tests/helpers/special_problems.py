"""Calls with tokens that the models do not share (numerics.md §15), and the formula in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eft_ext.ops.special_tokens import SpecialTokens
from python_tests.helpers.rows import models


class SpecialProblem(NamedTuple):
    name: str
    logits: list[Tensor]
    weights: Any
    special: SpecialTokens
    options: dict[str, Any]


def packed(allowed: Tensor) -> Tensor:
    """bool [B, V] as an int32 bitmask [B, ceil(V / 32)]."""
    rows, size = allowed.shape
    bits = torch.zeros(rows, -(-size // 32) * 32, dtype=torch.int64)
    bits[:, :size] = allowed
    words = (bits.unflatten(1, (-1, 32)) << torch.arange(32)).sum(dim=2)
    return words.to(torch.int32) if words.max() < 2**31 else (words - (words >> 31 << 32)).to(torch.int32)


def problems(size: int = 2500, rows: int = 4) -> list[SpecialProblem]:
    """Own tokens that win, that lose, in several tiles, first and last; with each option that meets them."""
    found = []

    def add(name: str, special: SpecialTokens, *, count: int = 3, kind: str = "lm", dtype: Any = torch.bfloat16,
            weights: Any = None, change: Any = None, shift: float = 0.0, width: int = size,
            **options: Any) -> None:  # fmt: skip
        logits = [x.float().add(shift).to(dtype) for x in models(kind, count, rows, width, dtype)]
        if change is not None:
            change(logits)
        given = [1.0, 0.7, -0.7, 0.3][:count] if weights is None else weights
        found.append(SpecialProblem(name, logits, given, special, options))

    def usual_of(owner: str | int) -> SpecialTokens:
        return SpecialTokens(own=(2450, 2451, 7), never=(2452, 2453, 0, 1024), owner=owner)

    usual = usual_of("tuned")

    def near(logits: list[Tensor]) -> None:  # as likely as the best ordinary token, and near it
        for s, away in zip(usual.own, (-0.5, 0.0, -1.5), strict=True):
            logits[1][:, s] = logits[1].amax(dim=1) + away

    def strange(logits: list[Tensor]) -> None:  # what others say of these columns is not looked at
        near(logits)
        for s in (*usual.own, *usual.never):
            logits[0][:, s], logits[2][:, s] = math.nan, math.inf
        logits[1][:, list(usual.never)] = math.nan

    def gone(logits: list[Tensor]) -> None:  # excluded tokens do not count among the best
        near(logits)
        logits[0][:, logits[0].float().amax(dim=0).argmax()] = -math.inf
        logits[1][0, usual.own[0]] = -math.inf

    def broken(logits: list[Tensor]) -> None:
        near(logits)
        logits[0][1, 300], logits[1][2, usual.own[0]], logits[2][3, 40] = math.nan, math.inf, math.inf

    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        add(f"near {dtype}", usual, dtype=dtype, change=near, temperature=0.8, top_p=0.95)
    add("unfiltered", usual, change=near)
    add("far", usual, top_k=20)
    add("strange", usual, change=strange, top_k=50, min_p=0.01)
    add("excluded", usual, change=gone, top_p=0.9)
    add("broken rows", usual, change=broken)
    add("greedy", usual, change=near, temperature=0.0)
    add("greedy of some", usual, change=near, temperature=torch.tensor([0.0, 0.5, 1.0, 2.0])[:rows])
    add("weights of rows", usual, change=near, weights=[1.0, torch.tensor([0.7, 0.0, -1.0, 2.0])[:rows], -0.7])
    add("never alone", SpecialTokens(never=usual.never), change=near, top_k=30)
    add("own alone", SpecialTokens(own=usual.own), change=near, top_p=0.8)
    add("one model", SpecialTokens((5, 6), (2400,), 0), count=1, weights=[1.0])
    add("two models", SpecialTokens((5, 6), (2400,), 1), count=2, weights=[1.5, 0.5])
    add("four models", SpecialTokens((5, 6), (2400,), 3), count=4, weights=[1.0, 0.5, -1.5, 1.0], top_p=0.9)
    add("ties", usual, kind="bf16_ties", change=near, top_p=0.7)
    bias = torch.linspace(-2, 2, size)
    add("bias", usual, change=near, bias=bias, top_p=0.9)
    few = torch.rand(rows, size, generator=torch.Generator().manual_seed(3)) < 0.3
    few[:, list(usual.own)] = True
    add("bitmask", usual, change=near, token_bitmask=packed(few), bias=bias)
    marks = torch.zeros(rows, size, dtype=torch.bool)
    marks[:, [*usual.own[:2], *usual.never[:1]]] = True
    add("no ordinary token is left", usual, change=near, token_bitmask=packed(marks))
    # Tiles without special tokens, in which the best ones lie; logits on both sides of 0, and all on one.
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for shift in (0.0, 20.0, -30.0):
            name = f"wide, {shift:+g}, {dtype}"
            add(name, usual, dtype=dtype, change=near, shift=shift, width=6200, temperature=0.7, top_p=0.9)
    for owner, count in ((0, 2), (1, 2), (0, 3), (2, 3), (3, 4)):
        special, weights = usual_of(owner), [0.5, 1.0, 0.25, 0.75][:count]
        add(f"wide, owner {owner} of {count}", special, count=count, weights=weights, shift=5.0, width=5200)
    add("wide, greedy", usual, change=near, shift=20.0, width=6200, temperature=0.0)
    add("wide, greedy, far", usual, shift=20.0, width=6200, temperature=0.0)
    add("wide, bias", usual, change=near, shift=20.0, width=6200, bias=torch.linspace(-2, 2, 6200))
    wide = torch.rand(rows, 6200, generator=torch.Generator().manual_seed(4)) < 0.5
    add("wide, bitmask", usual, change=near, shift=20.0, width=6200, token_bitmask=packed(wide), top_p=0.9)
    return found


def formula(logits: Sequence[Tensor], weights: Sequence[float], special: SpecialTokens, owner: int) -> Tensor:
    """Probabilities [B, V] in float64, at temperature 1 and without a filter, for rows without excluded tokens."""
    x = [one.double() for one in logits]
    y = sum(w * one for w, one in zip(weights, x, strict=True))
    ordinary = torch.ones(y.shape[1], dtype=torch.bool)
    ordinary[[*special.own, *special.never]] = False
    best, best_of_owner = y[:, ordinary].amax(dim=1), x[owner][:, ordinary].amax(dim=1)
    of_ordinary = (y[:, ordinary] - best[:, None]).exp()
    odds = (x[owner][:, list(special.own)] - best_of_owner[:, None]).exp()
    total = of_ordinary.sum(dim=1) + odds.sum(dim=1)
    probs = torch.zeros_like(y)
    probs[:, ordinary] = of_ordinary / total[:, None]
    probs[:, list(special.own)] = odds / total[:, None]
    return probs
