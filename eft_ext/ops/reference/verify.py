"""Speculative verification (numerics.md §8), row by row and position by position, in Python integers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eft_ext.ops.deprecated import renamed_bitmask
from eft_ext.ops.params import ConservativeParams
from eft_ext.ops.reference.distribution import greedy_tokens, scaled_rows
from eft_ext.ops.reference.draw import SurvivorMasses, draw, row_keys, survivors
from eft_ext.ops.reference.mixture import mix
from eft_ext.ops.reference.options import GREEDY_BELOW, sampling_options
from eft_ext.ops.reference.philox import ACCEPT, RESIDUAL, SAMPLE, random_bits
from eft_ext.ops.results import VerifyResult
from eft_ext.ops.special_tokens import SpecialTokens


class Filters(NamedTuple):
    """Temperature and filters of one distribution; each a number or a tensor [B]."""

    temperature: float | Tensor = 1.0
    top_k: int | Tensor = 0
    top_p: float | Tensor = 1.0
    min_p: float | Tensor = 0.0


class RowDistribution(NamedTuple):
    """One row's distribution in integers: p(y) = w[y] / total."""

    w: Tensor  # [V] int64 at the row's reference, 0 where filtered
    total: int  # S
    survivors: SurvivorMasses | None
    greedy: int | None  # the token, if there is nothing to draw


def verify(
    drafts: Tensor,
    draft_logits: Tensor | None,
    logits: Sequence[Tensor],
    weights: Tensor | Sequence[float | Tensor],
    *,
    lengths: int | Tensor | None = None,
    filters: Filters,
    draft_filters: Filters,
    conservative: ConservativeParams | None = None,
    special_tokens: SpecialTokens | None = None,
    bias: Tensor | None = None,
    token_bitmask: Tensor | None = None,
    seed: int | Tensor = 0,
    position: int | Tensor = 0,
    vocab_size: int | None = None,
    allowed: Tensor | None = None,
) -> VerifyResult:
    """Returns the result of `fused_verify`, by definition; shapes and meaning as there.

    Raises:
        ValueError: bad shapes or a bad number among the options.
    """
    token_bitmask = renamed_bitmask(token_bitmask, allowed)
    batch, k = drafts.shape
    widths = [x.shape[2] for x in (*logits, *([] if draft_logits is None else [draft_logits]))]
    size = min(widths) if vocab_size is None else vocab_size
    keys = row_keys(seed, batch)
    tokens = torch.full((batch, k + 1), -1, dtype=torch.int64)
    accepted, status = torch.zeros(batch, dtype=torch.int64), torch.zeros(batch, dtype=torch.int32)
    for b in range(batch):
        of_p, of_q = (Filters(*(_of(x, b) for x in f)) for f in (filters, draft_filters))
        rows = {"weights": _weights(weights, b), "bias": _of(bias, b, 2), "vocab_size": size}
        rows["conservative"] = conservative and conservative._replace(top_p=_of(conservative.top_p, b))
        rows["special_tokens"] = special_tokens
        at = int(_of(position, b))
        length = k if lengths is None else int(_of(lengths, b))
        good = at >= 0 and 0 <= length <= k and _good(of_p) and _good(of_q)
        for i in range(k + 1):
            mask = (
                None
                if token_bitmask is None
                else token_bitmask[b : b + 1, i]
                if token_bitmask.ndim == 3
                else token_bitmask[b : b + 1]
            )
            p = row_distribution([x[b : b + 1, i] for x in logits], of_p, token_bitmask=mask, **rows) if good else None
            draft = int(drafts[b, i]) if good and i < length else None
            if p is None or (draft is not None and not 0 <= draft < size):
                status[b] = 1
                break
            if draft is None:
                tokens[b, i] = _drawn(p, random_bits(keys[b], at + i, purpose=SAMPLE))
                break
            if p.greedy is not None:
                tokens[b, i] = p.greedy
                if draft != p.greedy:
                    break
                accepted[b] += 1
                continue
            q: RowDistribution | None = None
            if not float(of_q.temperature) < GREEDY_BELOW:
                assert draft_logits is not None
                draft_rows = {**rows, "weights": [1.0], "conservative": None, "special_tokens": None}
                q = row_distribution([draft_logits[b : b + 1, i]], of_q, token_bitmask=mask, **draft_rows)
                if q is None:
                    status[b] = 1
                    break
            if accepts(random_bits(keys[b], at + i, purpose=ACCEPT), p, q, draft):
                tokens[b, i] = draft
                accepted[b] += 1
                continue
            tokens[b, i] = redraw(random_bits(keys[b], at + i, purpose=RESIDUAL), p, q, draft)
            break
    device = drafts.device
    return VerifyResult(tokens.to(device), accepted.to(device), status.to(device))


def accepts(bits: int, p: RowDistribution, q: RowDistribution | None, x: int) -> bool:
    """u·q(x) < p(x) for u = bits / 2^64; q is certain of x if None."""
    a = p.total if q is None else int(q.w[x]) * p.total
    b = int(p.w[x]) * (1 if q is None else q.total)
    return (bits * a) >> 64 < b


def residual(p: RowDistribution, q: RowDistribution | None, x: int) -> Tensor:
    """ρ, int64 [V]: max(0, p - q) in units of p's masses."""
    if q is None:
        return p.w.clone().index_fill_(0, torch.tensor([x], device=p.w.device), 0)
    c = float(p.total) / float(q.total)
    return (p.w.double() - q.w.double() * c).clamp(min=0).floor().long()


def redraw(bits: int, p: RowDistribution, q: RowDistribution | None, x: int) -> int:
    """The token after x was rejected."""
    rho = residual(p, q, x)
    total = int(rho.sum())
    if total == 0:
        return _drawn(p, bits)
    return int((rho.cumsum(0) > (bits * total) >> 64).int().argmax())


def _drawn(p: RowDistribution, bits: int) -> int:
    if p.greedy is not None:
        return p.greedy
    assert p.survivors is not None
    return int(draw(p.survivors, [bits]))


def row_distribution(logits: list[Tensor], filters: Filters, **mixture: Any) -> RowDistribution | None:
    """The distribution of one row [1, V]; None where it is invalid."""
    mixed = mix(logits, **mixture)
    options = sampling_options(mixed.z, *filters)
    t, valid = scaled_rows(mixed, options)
    if not bool(valid):
        return None
    if bool(options.greedy):
        return RowDistribution(t[0], 0, None, int(greedy_tokens(mixed.z)))
    found = survivors(t, options)
    at_row = found.mass.at_row().flatten(1)[0, : t.shape[1]]
    return RowDistribution(torch.where(found.kept[0], at_row, 0), int(found.share.sum()), found, None)


def _good(filters: Filters) -> bool:
    temperature, top_k, top_p, min_p = (float(x) for x in filters)
    return 0 <= temperature < math.inf and top_k >= 0 and 0 <= top_p <= 1 and 0 <= min_p <= 1


def _of(option: Any, b: int, per_row: int = 1) -> Any:
    """A row's own part of an option that has a row axis where it has `per_row` axes."""
    return option[b : b + 1] if isinstance(option, Tensor) and option.ndim == per_row else option


def _weights(weights: Tensor | Sequence[float | Tensor], b: int) -> Any:
    return _of(weights, b, 2) if isinstance(weights, Tensor) else [_of(w, b) for w in weights]
