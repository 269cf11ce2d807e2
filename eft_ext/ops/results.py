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

    Attributes:
        tokens: [B] int64, the drawn tokens.
        logprobs: [B] fp32, of the token under the final filtered distribution; 0 when greedy.
        raw_logprobs: [B] fp32, of the token under the mixture at temperature 1, unfiltered.
        model_logprobs: [B, K] fp32, of the token under each model's own distribution.
        entropy: [B] fp32, nats, of the mixture at temperature 1, unfiltered.
        num_kept: [B] int32, number of tokens that survive all filters; 1 when greedy.
        top_ids: [B, n] int64, the first n = `top_logprobs` tokens of the rank; -1 where fewer exist.
        top_logprobs: [B, n] fp32, theirs under the mixture at temperature 1, unfiltered.
        status: [B] int32, 0 ok, 1 invalid row.
    """

    tokens: Tensor
    logprobs: Tensor
    raw_logprobs: Tensor
    model_logprobs: Tensor
    entropy: Tensor
    num_kept: Tensor
    top_ids: Tensor
    top_logprobs: Tensor
    status: Tensor

    @property
    def kept(self) -> Tensor:
        """The old name of `num_kept`; gives a DeprecationWarning."""
        note("kept", "num_kept")
        return self.num_kept


class VerifyResult(NamedTuple):
    """The outcome of a row's drafts: `num_accepted` of them, and the token that follows (numerics.md §8).

    That token was resampled in place of a rejected draft, or is the bonus after all of them. Where ``status`` is 1
    (an invalid row at that position) it is -1.

    Attributes:
        tokens: [B, k+1] int64, the accepted drafts, the token that follows, then -1.
        num_accepted: [B] int64, the number of accepted drafts.
        status: [B] int32, 0 ok, 1 invalid.
    """

    tokens: Tensor
    num_accepted: Tensor
    status: Tensor


class Score(NamedTuple):
    """Teacher-forced statistics of K models and of their mixture.

    ``...`` is the targets' shape, [B] or [B, T]. D = K + 1 distributions: the models in the order given, then the
    mixture (index -1). All at temperature 1, in nats. `p` is the mixture, `q` the compared model.

    A position whose ``status`` is 1 (NaN, +inf, everything excluded, a bad value in an option tensor, a target that is
    no token) has NaN in every floating field and -1 for every id and rank. Where it is 2 the target was
    ``ignore_index``: nothing was read, floats are 0 (so that sums over a sequence are right), ids and ranks -1.

    Attributes:
        lse: [..., D] fp64, log sum exp of the logits: log p of any token is its logit minus this.
        logprobs: [..., D] fp32, of the target; -inf where it is excluded.
        entropy: [..., D] fp32.
        max_prob: [..., D] fp32, the largest probability.
        log1m_max: [..., D] fp32, log(1 - max_prob), from the sum of all others: exact also where max_prob is 1.
        sum_squares: [..., D] fp32, sum of the squared probabilities.
        argmax: [..., D] int64, the likeliest token, the lowest id on ties.
        rank: [..., D] int64, the number of tokens before the target (logit descending, then id).
        top_ids: [..., D, num_top] int64, the first of the rank; -1 where fewer exist.
        top_logprobs: [..., D, num_top] fp32, theirs; -inf where fewer exist.
        tv: [...] fp32, total variation sum |p - q| / 2.
        kl: [...] fp32, KL(p || q) = sum p (log p - log q).
        up_ids: [..., num_changed] int64, the tokens with the largest p - q > 0; -1 where fewer exist.
        up_log_ratios: [..., num_changed] fp32, their log p - log q; 0 where fewer exist.
        down_ids: [..., num_changed] int64, the tokens with the smallest p - q < 0; -1 where fewer exist.
        down_log_ratios: [..., num_changed] fp32, their log p - log q; -inf where the mixture excludes the token.
        status: [...] int32, 0 ok, 1 invalid, 2 ignored.
    """

    lse: Tensor
    logprobs: Tensor
    entropy: Tensor
    max_prob: Tensor
    log1m_max: Tensor
    sum_squares: Tensor
    argmax: Tensor
    rank: Tensor
    top_ids: Tensor
    top_logprobs: Tensor
    tv: Tensor
    kl: Tensor
    up_ids: Tensor
    up_log_ratios: Tensor
    down_ids: Tensor
    down_log_ratios: Tensor
    status: Tensor

    @property
    def reward(self) -> Tensor:
        """The implicit reward log π_tuned - log π_base of the target, [...] fp32; for large, tuned, base only."""
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
