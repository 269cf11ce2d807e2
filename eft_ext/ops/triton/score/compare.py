"""The second read, for what compares the mixture p with one model q: their normalisers are known now."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from eft_ext.ops.triton.common.arithmetic import INFINITY
from eft_ext.ops.triton.common.exponentials import exp_or_zero, log64
from eft_ext.ops.triton.common.mix import MIXTURE, REWEIGHTED, finite_model_logits, load_models
from eft_ext.ops.triton.common.rank import leading_part, nothing_taken, take
from eft_ext.ops.triton.score.parts import (
    CHANGE,
    PARTS,
    load_word,
    mixture_logits,
    nucleus_of,
    parts_of,
    store_words,
    tokens_of,
    with_word,
)


class Pair(NamedTuple):
    """p and q as exp(logit - top) * scale, fp32; rest: lse - top, fp64."""

    top_p: Any
    top_q: Any
    scale_p: Any
    scale_q: Any
    rest_p: Any
    rest_q: Any


@triton.jit
def _pair(summaries, row, K: tl.constexpr, COMPARED: tl.constexpr):
    p, q = row * (K + 1) + K, row * (K + 1) + COMPARED
    return Pair(
        tl.load(summaries.top + p),
        tl.load(summaries.top + q),
        tl.load(summaries.scale + p),
        tl.load(summaries.scale + q),
        tl.load(summaries.rest + p),
        tl.load(summaries.rest + q),
    )


@triton.jit
def _log_scales(pair):
    """log scale_p - log scale_q, fp64."""
    return log64(pair.scale_p.to(tl.float64)) - log64(pair.scale_q.to(tl.float64))


@triton.jit
def _both(mix, row, ids, nucleus, SOURCE: tl.constexpr, COMPARED: tl.constexpr, tile=None):
    """Logits of p and q."""
    raw = load_models(mix, row, ids)
    return mixture_logits(mix, row, raw, ids, nucleus, SOURCE, tile), finite_model_logits(mix, raw[COMPARED], ids)


@triton.jit
def _gain(p, q, pair):
    """p - q of tokens with these logits, and p."""
    prob = exp_or_zero(p - pair.top_p) * pair.scale_p
    return prob - exp_or_zero(q - pair.top_q) * pair.scale_q, prob


@triton.jit
def score_compare_kernel(
    mix, work, num_tiles, num_slices, TILES: tl.constexpr, DEFINING: tl.constexpr, COMPARED: tl.constexpr
):
    """Program (row, slice) compares the parts of TILES tiles. KL as the sum of p log(p / q) - p + q: each term is
    non-negative, and a relative error of a normaliser cancels to first order."""
    SOURCE: tl.constexpr = MIXTURE if DEFINING < 0 else REWEIGHTED + DEFINING
    program = tl.program_id(0)
    row = (program // num_slices).to(tl.int64)
    first = (program % num_slices) * TILES
    if tl.load(work.summaries.valid + row) != 0:
        pair = _pair(work.summaries, row, len(mix.logits), COMPARED)
        log_scales = _log_scales(pair).to(tl.float32)
        nucleus = nucleus_of(work.summaries, row)
        for tile in range(first, tl.minimum(first + TILES, num_tiles)):
            parts = parts_of(tile)
            p, q = _both(mix, row, tokens_of(parts), nucleus, SOURCE, COMPARED, tile)
            gain, prob = _gain(p, q, pair)
            ratio = ((p - pair.top_p) - (q - pair.top_q)) + log_scales  # NaN where both are excluded
            divergence = tl.where(prob > 0.0, prob * ratio, 0.0) - gain
            words = with_word(tl.zeros([PARTS, 32], tl.float32), 0, tl.sum(tl.abs(gain), axis=1))
            words = with_word(words, 1, tl.sum(divergence, axis=1))
            words = with_word(words, 2, tl.max(gain, axis=1))
            words = with_word(words, 3, tl.max(-gain, axis=1))
            store_words(work.changes + row * num_tiles * (PARTS * CHANGE), parts, words, CHANGE)


@triton.jit
def _write_changed(
    ids_out, ratios_out, most, sign, num_changed, mix, row, pair, nucleus,
    SOURCE: tl.constexpr, COMPARED: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """The tokens with the largest sign * (p - q) > 0. most: of each part [P]."""
    passed, place = nothing_taken(P), row * num_changed
    for i in range(num_changed):
        listed, ratio = tl.full((), -1, tl.int32), tl.full((), 0.0, tl.float32)
        if tl.max(most) > 0.0:
            part = leading_part(most, P)
            ids = tokens_of(part + tl.arange(0, 1))
            p, q = _both(mix, row, ids, nucleus, SOURCE, COMPARED)
            listed, most, passed = take(_gain(p, q, pair)[0] * sign, ids, part, most, passed, P)
            p = tl.max(tl.where(ids == listed, p, -INFINITY)).to(tl.float64)
            q = tl.max(tl.where(ids == listed, q, -INFINITY)).to(tl.float64)
            log_p, log_q = (p - pair.top_p) - pair.rest_p, (q - pair.top_q) - pair.rest_q
            ratio = (log_p - log_q).to(tl.float32)
        tl.store(ids_out + place + i, listed.to(tl.int64))
        tl.store(ratios_out + place + i, ratio)


@triton.jit(do_not_specialize=["num_changed"])
def score_changes_kernel(
    mix,
    stats,
    num_changed: tl.int32,
    work,
    num_parts,
    DEFINING: tl.constexpr,
    COMPARED: tl.constexpr,
    P: tl.constexpr,
):
    """Programs (row, 0) write the distances and what gained, programs (row, 1) what lost."""
    SOURCE: tl.constexpr = MIXTURE if DEFINING < 0 else REWEIGHTED + DEFINING
    program = tl.program_id(0)
    row, loses = (program // 2).to(tl.int64), program % 2 == 1
    parts, changes = tl.arange(0, P), work.changes + row * num_parts * CHANGE
    ids_out = tl.where(loses, stats.down_ids, stats.up_ids)
    ratios_out = tl.where(loses, stats.down_log_ratios, stats.up_log_ratios)
    if tl.load(work.summaries.valid + row) != 0:
        pair = _pair(work.summaries, row, len(mix.logits), COMPARED)
        nucleus = nucleus_of(work.summaries, row)
        most = load_word(changes, parts, num_parts, tl.where(loses, 3, 2), CHANGE, 0.0)
        if not loses:
            absolute = load_word(changes, parts, num_parts, 0, CHANGE, 0.0).to(tl.float64)
            divergence = load_word(changes, parts, num_parts, 1, CHANGE, 0.0).to(tl.float64)
            log_scales = _log_scales(pair)
            rounded = log_scales - log_scales.to(tl.float32).to(tl.float64)
            tl.store(stats.tv + row, tl.minimum(tl.sum(absolute) * 0.5, 1.0).to(tl.float32))
            tl.store(stats.kl + row, tl.maximum(tl.sum(divergence) + rounded, 0.0).to(tl.float32))
        sign = tl.where(loses, -1.0, 1.0)
        _write_changed(
            ids_out, ratios_out, most, sign, num_changed, mix, row, pair, nucleus, SOURCE, COMPARED, P
        )  # fmt: skip
    else:
        blank = tl.where(tl.load(stats.status + row) == 2, 0.0, float("nan"))
        tl.store(stats.tv + row, blank)
        tl.store(stats.kl + row, blank)
        place = row * num_changed
        for i in range(num_changed):
            tl.store(ids_out + place + i, tl.full((), -1, tl.int64))
            tl.store(ratios_out + place + i, blank)
