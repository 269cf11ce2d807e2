"""Hypothesis strategies for whole calls of the step, adversarial on purpose (numerics.md §14).

A row is a base shape (ties, ladders, cliffs, ±1e30, subnormals, ...) with special values strewn over it. Only the
recipe is drawn, so examples shrink to few and simple parts; the numbers come from numpy under a drawn seed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from eft_ext.ops import StepDetails, fused_mix, fused_step
from python_tests.helpers.token_sets import bitmasks, special_tokens

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# Around every width that something is padded or cut to: words of 32, groups of 16, chunks of 256, tiles of 1024.
VOCABS = (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 257, 1000, 1023, 1024, 1025, 2047, 2048, 2049, 3100)
# Large enough for the CPU step's own way with wide nuclei.
LARGE_VOCABS = (65535, 65536, 65537, 66560, 70001)
SHAPES = ("equal", "two_level", "ladder", "noise", "head", "cliffs", "huge", "subnormal", "falling", "rising")
LOWEST = "lowest"  # of the model's dtype
EDGE_VALUES = (-np.inf, LOWEST, 0.0, -0.0, 1e30, -1e30, -3.3e38, 60000.0, 1e-45, -1e-45, 1e-38, 88.0, -26.0, -30.0)
RUINOUS = (np.inf, np.nan, 3.3e38, -3.3e38)
PLACES = ("one", "third", "tile", "after", "all_but_one", "all")


@dataclass
class Problem:
    """One call: what `fused_step` or `fused_mix` is given."""

    logits: list[Tensor]
    weights: list[float | Tensor]
    options: dict[str, Any]
    conservative: dict[str, Any] = field(default_factory=dict)

    def run(self, backend: str, **more: Any) -> StepDetails:
        options = {**self.options, "backend": backend, "return_details": True, **more}
        if self.conservative:
            return fused_step(*self.logits, **self.conservative, **options)
        return fused_mix(self.logits, self.weights, **options)


@cache  # a strategy costs more to make than to draw from
def _rarely(rare: st.SearchStrategy[Any], usual: st.SearchStrategy[Any], of: int = 16) -> st.SearchStrategy[Any]:
    """`rare` once in `of` (one_of would give both the same share)."""
    return st.integers(1, of).flatmap(lambda i: rare if i == of else usual)


def _base(shape: str, vocab: int, size: float, rng: np.random.Generator) -> np.ndarray:
    ids = np.arange(vocab)
    if shape == "equal":
        return np.full(vocab, size)
    if shape == "two_level":
        return size * (rng.random(vocab) < 0.3)
    if shape == "ladder":
        return np.round(rng.standard_normal(vocab) * 4) * size / 4
    if shape == "head":
        return np.where(rng.random(vocab) < 0.01, 20.0, rng.standard_normal(vocab) * 3)
    if shape == "cliffs":
        return rng.standard_normal(vocab) - size * (ids // 1024)
    if shape == "huge":
        return np.sign(rng.standard_normal(vocab)) * 1e30
    if shape == "subnormal":
        return rng.standard_normal(vocab) * 1e-40
    if shape in ("falling", "rising"):
        return (ids if shape == "rising" else -ids) * size / 64
    return rng.standard_normal(vocab) * size


def _where(place: str, vocab: int, rng: np.random.Generator) -> Any:
    at = int(rng.integers(vocab))
    if place == "one":
        return at
    if place == "third":
        return rng.random(vocab) < 0.33
    if place == "tile":
        return slice(at // 1024 * 1024, at // 1024 * 1024 + 1024)
    if place == "after":
        return slice(at, None)
    if place == "all_but_one":
        mask = np.ones(vocab, dtype=bool)
        mask[at] = False
        return mask
    return slice(None)


# What is bad is rare: a row that something has made invalid tests nothing else.
_spoil = _rarely(
    st.one_of(
        st.tuples(st.sampled_from(EDGE_VALUES), st.sampled_from(PLACES[4:])),
        st.tuples(st.sampled_from(RUINOUS), st.just("one")),
    ),
    st.tuples(st.sampled_from(EDGE_VALUES), st.sampled_from(PLACES[:4])),
    of=8,
)
_row = st.tuples(
    st.sampled_from(SHAPES),
    st.sampled_from((0.01, 1.0, 3.0, 9.0, 30.0, 300.0)),
    _rarely(st.lists(_spoil, min_size=1, max_size=2), st.just([]), of=4),
    st.integers(0, 2**16),
)


def _filled(rows: list[Any], vocab: int, dtype: torch.dtype) -> Tensor:
    filled = []
    for shape, size, spoils, seed in rows:
        rng = np.random.default_rng(seed)
        x = _base(shape, vocab, size, rng)
        for value, place in spoils:
            x[_where(place, vocab, rng)] = torch.finfo(dtype).min if value == LOWEST else value
        filled.append(x)
    x = torch.from_numpy(np.stack(filled))
    # fp16 cannot hold 1e30: let it be large rather than infinite, unless infinity was meant.
    top = torch.finfo(dtype).max
    return torch.where(x.isinf(), x, x.clamp(-top, top)).to(dtype)


def _placed(x: Tensor, pad: int, offset: int) -> Tensor:
    """`x` inside a wider tensor of NaN: an odd row stride, an odd address, columns nobody may look at."""
    batch, vocab = x.shape
    whole = torch.full((batch * (vocab + pad) + offset,), torch.nan, dtype=x.dtype)
    wide = whole[offset:].view(batch, vocab + pad)
    wide[:, :vocab] = x
    return wide


@cache
def _rows(count: int) -> st.SearchStrategy[Any]:
    return st.lists(_row, min_size=count, max_size=count)


@cache
def _per_row(values: st.SearchStrategy[Any], bad: tuple[Any, ...], batch: int, dtype: torch.dtype) -> Any:
    """A number, or a tensor [B] in which a row may rarely have a bad value; sometimes with a stride of two."""
    element = _rarely(st.sampled_from(bad), values) if bad else values
    rows = st.lists(element, min_size=batch, max_size=batch)
    tensor = st.builds(
        lambda row, step: torch.tensor(row, dtype=dtype).repeat_interleave(step)[::step], rows, st.integers(1, 2)
    )
    return _rarely(tensor, values, of=4)


_heat = _rarely(
    st.sampled_from((0.0, 1e-40, 2.0**-20, 9.5e-7, 1e-3, 0.1, 1e4, 3e38)), st.sampled_from((0.7, 1.0, 1.3, 3.0)), of=4
)
_top_p = st.one_of(
    st.sampled_from((0.0, 1e-10, 2.0**-33, 0.5, 0.9, 0.95, 1 - 2.0**-24, 1.0, 1.0)), st.floats(0, 1, width=32)
)
_min_p = st.sampled_from((0.0, 0.0, 1e-45, 1e-12, 0.05, 0.5, 1.0))
_weight = _rarely(
    st.sampled_from((1e-3, 1e-45, 1e8, -1e8, 3e38)), st.sampled_from((1.0, -1.0, 0.5, -0.5, 0.0, 2.0, 1.7))
)
_scale = st.sampled_from((1.0, 1.0, 0.5, 1.5, 0.0, -1.0, 1.0, 1e8))
_BAD = (-1.0, float("nan"), float("inf"), 1.5)
_BAD_HEAT, _NAN_OR_INF, _NAN = _BAD[:3], _BAD[1:3], _BAD[1:2]


@st.composite
def large_problems(draw: st.DrawFn) -> Problem:
    """One row of one or two models over a large vocabulary: flat, tied, or a head over a floor, with top-p."""
    vocab, count = draw(st.sampled_from(LARGE_VOCABS)), draw(st.integers(1, 2))
    kept_shapes = ("equal", "two_level", "ladder", "noise", "noise", "head", "cliffs", "falling", "huge", "subnormal")
    logits = []
    for _ in range(count):
        spoils = draw(_rarely(st.lists(_spoil, min_size=1, max_size=2), st.just([]), of=4))
        size = draw(st.sampled_from((1e-3, 0.01, 0.3, 1.0, 2.0)))
        row = (draw(st.sampled_from(kept_shapes)), size, spoils, draw(st.integers(0, 2**16)))
        logits.append(_placed(_filled([row], vocab, draw(st.sampled_from(DTYPES))), 3, 1))
    options = {"vocab_size": vocab, "temperature": draw(_heat), "top_p": draw(_top_p)}
    options |= {"seed": draw(st.integers(0, 2**63 - 1)), "position": 0}
    options["top_k"] = draw(_rarely(st.sampled_from((1, 50, 20_000, vocab)), st.just(0), of=4))
    options["min_p"] = draw(_rarely(_min_p, st.just(0.0), of=4))
    return Problem(logits, [1.0, -0.25][:count], options)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Any call of the step that must not raise."""
    count, batch, vocab = draw(st.sampled_from((1, 2, 3, 3, 4))), draw(st.integers(1, 3)), draw(st.sampled_from(VOCABS))
    dtypes = draw(
        st.one_of(
            st.sampled_from(DTYPES).map(lambda d: [d] * count),
            st.lists(st.sampled_from(DTYPES), min_size=count, max_size=count),
        )
    )
    pads = [draw(st.sampled_from((0, 0, 1, 7, 64))) for _ in range(count)]
    offset = draw(st.sampled_from((0, 0, 1, 3)))
    logits = []
    for dtype, pad in zip(dtypes, pads, strict=True):
        rows = draw(_rows(batch))
        logits.append(_placed(_filled(rows, vocab, dtype), pad, offset))

    top_k = st.sampled_from((0, 0, 1, 2, 5, 50, 1000, vocab, 2**40))
    options: dict[str, Any] = {
        "vocab_size": vocab,
        "temperature": draw(_per_row(_heat, _BAD_HEAT, batch, torch.float32)),
        "top_k": draw(_per_row(st.one_of(st.just(0), top_k), (-1,), batch, torch.int64)),
        "top_p": draw(_per_row(_top_p, _BAD, batch, torch.float32)),
        "min_p": draw(_per_row(_min_p, _BAD, batch, torch.float32)),
        "seed": draw(_per_row(st.integers(-(2**63), 2**63 - 1), (), batch, torch.int64)),
        "position": draw(_per_row(st.integers(0, 2**63 - 1), (-1,), batch, torch.int64)),
        "top_logprobs": draw(st.sampled_from((0, 1, 3, vocab + 2))),
    }
    if draw(st.integers(1, 4)) == 4:
        height = draw(st.sampled_from((1, batch)))
        bias = _placed(_filled(draw(_rows(height)), vocab, torch.float32), 5, offset)
        options["bias"] = bias[0] if height == 1 else bias
        if height == 1 and batch == 1 and draw(st.booleans()):
            options["bias"] = bias
    if draw(st.integers(1, 4)) == 4:
        options["token_bitmask"] = draw(bitmasks(batch, vocab))
    if draw(st.integers(1, 4)) == 4:
        options["special_tokens"] = draw(special_tokens(count, vocab))

    conservative: dict[str, Any] = {}
    if count == 3 and draw(st.booleans()):
        conservative = {
            "scale": draw(_per_row(_scale, _NAN, batch, torch.float32)),
            "conservative_top_p": draw(_per_row(_top_p, _BAD, batch, torch.float32)),
            "conservative_set": draw(st.sampled_from(("large", "tuned", "base"))),
            "conservative_outside": draw(st.sampled_from(("keep", "drop"))),
        }
    weights = [draw(_per_row(_weight, _NAN_OR_INF, batch, torch.float32)) for _ in range(count)]
    return Problem(logits, weights, options, conservative)
