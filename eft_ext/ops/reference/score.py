"""Scoring in float64: every statistic from its definition, given the mixture's logits bit for bit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from eft_ext.ops.deprecated import renamed_bitmask
from eft_ext.ops.params import ConservativeParams
from eft_ext.ops.reference.mixture import mix
from eft_ext.ops.results import Score, dtype_of
from eft_ext.ops.special_tokens import SpecialTokens

IGNORED = 2


def score(
    logits: Sequence[Tensor],
    weights: Tensor | Sequence[float | Tensor],
    targets: Tensor,
    *,
    ignore_index: int = -100,
    compared: int = 0,
    num_top: int = 0,
    num_changed: int = 0,
    conservative: ConservativeParams | None = None,
    special_tokens: SpecialTokens | None = None,
    bias: Tensor | None = None,
    token_bitmask: Tensor | None = None,
    vocab_size: int | None = None,
    allowed: Tensor | None = None,
) -> Score:
    """Statistics of K models and their mixture, all floats float64 and not rounded.

    Args:
        logits: K of [B, V_k]. weights, conservative, bias, token_bitmask, special_tokens, vocab_size: as for `combine`.
        targets: int64 [B], in [0, vocab_size) or `ignore_index`.
        compared: the model q that the mixture p is compared with.
        num_top, num_changed: the length of the lists of tokens.

    Returns:
        `Score` with B for its leading shape.
    """
    token_bitmask = renamed_bitmask(token_bitmask, allowed)
    mixture = mix(logits, weights, bias, token_bitmask, vocab_size, conservative, special_tokens)
    size = mixture.z.shape[1]
    ignored = targets == ignore_index
    known = (targets >= 0) & (targets < size)
    bad = mixture.z.isnan().any(dim=1) | ~(mixture.z.amax(dim=1).abs() < math.inf) | ~known
    by_model = [torch.where(x < math.inf, x.double(), -math.inf) for x in mixture.models]
    rows = torch.stack([*by_model, mixture.z.double()], dim=1)  # [B, D, V]
    rows = torch.where((bad | ignored)[:, None, None], 0.0, rows)
    target = torch.where(known, targets, 0)

    # Relative to the largest, since logits may be far larger than their differences; and the others by themselves,
    # since 1 + 1e-20 is 1.
    largest, argmax = rows.max(dim=2)
    relative = rows - largest[:, :, None]
    others = relative.scatter(2, argmax[:, :, None], -math.inf).logsumexp(dim=2)
    lse = others.exp().log1p()
    logp = relative - lse[:, :, None]
    probs = logp.exp()
    at = target[:, None, None].expand(-1, rows.shape[1], 1)
    own_logit = rows.gather(2, at)
    earlier = torch.arange(size, device=rows.device) < target[:, None, None]
    top_ids, top_logits = _first(rows, num_top, -math.inf)

    p, q = probs[:, -1], probs[:, compared]
    ratio = torch.where(p > 0, logp[:, -1] - logp[:, compared], 0.0)
    changed = logp[:, -1] - torch.where(logp[:, compared] > -math.inf, logp[:, compared], 0.0)
    up_ids, gain = _first(p - q, num_changed, 0.0)
    down_ids, loss = _first(q - p, num_changed, 0.0)
    found = Score(
        lse=largest + lse,
        logprobs=logp.gather(2, at).squeeze(2),
        entropy=torch.special.entr(probs).sum(dim=2),
        max_prob=probs.amax(dim=2),
        log1m_max=others - lse,
        sum_squares=probs.square().sum(dim=2),
        argmax=argmax,
        rank=((rows > own_logit) | ((rows == own_logit) & earlier)).sum(dim=2),
        top_ids=top_ids,
        top_logprobs=(top_logits - largest[:, :, None]) - lse[:, :, None],
        tv=(p - q).abs().sum(dim=1) / 2,
        kl=(p * ratio).sum(dim=1),
        up_ids=up_ids,
        up_log_ratios=torch.where(gain > 0, _at(changed, up_ids), 0.0),
        down_ids=down_ids,
        down_log_ratios=torch.where(loss > 0, _at(changed, down_ids), 0.0),
        status=bad.int(),
    )
    return _blanked(found, bad, ignored)


def _first(x: Tensor, count: int, floor: float) -> tuple[Tensor, Tensor]:
    """The `count` largest of the last dimension above `floor`, ties by id: ids (-1 past the end) and values."""
    order = x.sort(dim=-1, descending=True, stable=True)
    there = min(count, x.shape[-1])
    ids, values = order.indices[..., :there], order.values[..., :there]
    ids = torch.where(values > floor, ids, -1)
    values = torch.where(values > floor, values, floor)
    past = (0, count - there)
    return torch.nn.functional.pad(ids, past, value=-1), torch.nn.functional.pad(values, past, value=floor)


def _at(x: Tensor, ids: Tensor) -> Tensor:
    return x.gather(-1, ids.clamp(min=0))


def _blanked(found: Score, bad: Tensor, ignored: Tensor) -> Score:
    """NaN and -1 where a row is invalid, 0 and -1 where it is ignored."""

    def blank(name: str, field: Tensor) -> Tensor:
        shape = (-1, *[1] * (field.ndim - 1))
        skip, none = ignored.reshape(shape), bad.reshape(shape)
        if name == "status":
            return torch.where(skip, IGNORED, field).int()
        if dtype_of(name) == torch.int64:
            return torch.where(skip | none, -1, field)
        return torch.where(skip, 0.0, torch.where(none, math.nan, field))

    return Score(**{name: blank(name, field) for name, field in found._asdict().items()})
