"""The results of the operations: of a step beside its tokens, of a verification, of scoring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from eft_ext.ops.deprecated import note


class StepDetails(NamedTuple):
    """The drawn tokens, and their probabilities under the models and the mixture (numerics.md §10).

    Log-probabilities are natural logarithms. A row whose ``status`` is 1 (NaN, +inf, everything excluded, or a
    bad value in an option tensor) has token -1, ``num_kept`` 0 and NaN in every floating field.
    """

    tokens: Tensor  # [B] int64
    logprobs: Tensor  # [B] fp32, of the token under the final filtered distribution; 0 when greedy
    raw_logprobs: Tensor  # [B] fp32, of the token under the mixture at temperature 1, unfiltered
    model_logprobs: Tensor  # [B, K] fp32, of the token under each model's own distribution
    entropy: Tensor  # [B] fp32, nats, of the mixture at temperature 1, unfiltered
    num_kept: Tensor  # [B] int32, tokens that survive all filters; 1 when greedy
    top_ids: Tensor  # [B, n] int64, the n first of the rank, n = `top_logprobs`; -1 where fewer exist
    top_logprobs: Tensor  # [B, n] fp32, under the mixture at temperature 1, unfiltered
    status: Tensor  # [B] int32, 0 ok, 1 invalid row

    @property
    def kept(self) -> Tensor:
        """The old name of `num_kept`; gives a DeprecationWarning."""
        note("kept", "num_kept")
        return self.num_kept


class VerifyResult(NamedTuple):
    """The outcome of a row's drafts: `num_accepted` of them, and the token that follows (numerics.md §8).

    That token was resampled in place of a rejected draft, or is the bonus after all of them. Where ``status`` is 1
    (an invalid row at that position) it is -1.
    """

    tokens: Tensor  # [B, k+1] int64: the accepted drafts, the token that follows, then -1
    num_accepted: Tensor  # [B] int64
    status: Tensor  # [B] int32, 0 ok, 1 invalid


class Score(NamedTuple):
    """Teacher-forced statistics of K models and of their mixture.

    ``...`` is the targets' shape, [B] or [B, T]. D = K + 1 distributions: the models in the order given, then the
    mixture (index -1). All at temperature 1, in nats. `p` is the mixture, `q` the compared model.

    A position whose ``status`` is 1 (NaN, +inf, everything excluded, a bad value in an option tensor, a target that is
    no token) has NaN in every floating field and -1 for every id and rank. Where it is 2 the target was
    ``ignore_index``: nothing was read, floats are 0 (so that sums over a sequence are right), ids and ranks -1.
    """

    lse: Tensor  # [..., D] fp64, log sum exp of the logits: log p of any token is its logit minus this
    logprobs: Tensor  # [..., D] fp32, of the target; -inf where it is excluded
    entropy: Tensor  # [..., D] fp32
    max_prob: Tensor  # [..., D] fp32, the largest probability
    log1m_max: Tensor  # [..., D] fp32, log(1 - max_prob), from the sum of all others: exact also where max_prob is 1
    sum_squares: Tensor  # [..., D] fp32, sum of the squared probabilities
    argmax: Tensor  # [..., D] int64, the lowest id on ties
    rank: Tensor  # [..., D] int64, how many tokens come before the target (logit descending, then id)
    top_ids: Tensor  # [..., D, num_top] int64, the first of the rank; -1 where fewer exist
    top_logprobs: Tensor  # [..., D, num_top] fp32, -inf where fewer exist
    tv: Tensor  # [...] fp32, total variation sum |p - q| / 2
    kl: Tensor  # [...] fp32, KL(p || q) = sum p (log p - log q)
    up_ids: Tensor  # [..., num_changed] int64, the largest p - q > 0; -1 where fewer exist
    up_log_ratios: Tensor  # [..., num_changed] fp32, their log p - log q; 0 where fewer exist
    down_ids: Tensor  # [..., num_changed] int64, the smallest p - q < 0
    down_log_ratios: Tensor  # [..., num_changed] fp32, -inf where the mixture excludes the token
    status: Tensor  # [...] int32, 0 ok, 1 invalid, 2 ignored

    @property
    def reward(self) -> Tensor:
        """[...] fp32: log π_tuned - log π_base of the target, the implicit reward; for large, tuned, base only."""
        if self.logprobs.shape[-1] != 4:
            raise ValueError(f"reward: expected the three models large, tuned, base, got {self.logprobs.shape[-1] - 1}")
        return self.logprobs[..., 1] - self.logprobs[..., 2]


_DISTRIBUTIONS = ("lse", "logprobs", "entropy", "max_prob", "log1m_max", "sum_squares", "argmax", "rank")
_IDS = ("argmax", "rank", "top_ids", "up_ids", "down_ids")


def pick_models(score: Score, places: Sequence[int]) -> Score:
    """The same of these distributions only, in this order."""
    picked = {name: getattr(score, name)[..., list(places)] for name in _DISTRIBUTIONS}
    picked |= {name: getattr(score, name)[..., list(places), :] for name in ("top_ids", "top_logprobs")}
    return score._replace(**picked)


def dtype_of(name: str) -> torch.dtype:
    if name in _IDS:
        return torch.int64
    return {"lse": torch.float64, "status": torch.int32}.get(name, torch.float32)


def width_of(name: str, models: int, num_top: int, num_changed: int) -> tuple[int, ...]:
    """The dimensions that follow the targets' shape in the field `name`."""
    if name in _DISTRIBUTIONS:
        return (models + 1,)
    if name.startswith("top_"):
        return (models + 1, num_top)
    return (num_changed,) if name.startswith(("up_", "down_")) else ()


def new_score(shape: tuple[int, ...], models: int, num_top: int, num_changed: int, device: torch.device) -> Score:
    """Empty tensors for the targets' shape."""
    widths = {name: width_of(name, models, num_top, num_changed) for name in Score._fields}
    return Score(**{n: torch.empty((*shape, *w), dtype=dtype_of(n), device=device) for n, w in widths.items()})
