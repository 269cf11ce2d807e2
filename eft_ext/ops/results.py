"""What a step returns beside the tokens, and the options of conservative re-weighting."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from eft_ext.ops.deprecated import note


class StepDetails(NamedTuple):
    """The drawn tokens and what the models and their mixture say of them (SPEC: "What it returns").

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
    """What became of a row's drafts: `num_accepted` of them stand, and one token follows (docs/numerics.md, 8).

    That token was redrawn in place of a rejected draft, or is the bonus after all of them. Where ``status`` is 1
    (an invalid row at that position) it is -1.
    """

    tokens: Tensor  # [B, k+1] int64: the accepted drafts, the token that follows, then -1
    num_accepted: Tensor  # [B] int64
    status: Tensor  # [B] int32, 0 ok, 1 invalid


class Conservative(NamedTuple):
    """Conservative re-weighting of the up-scaling form (Mitchell et al., conservative decoding)."""

    top_p: float | Tensor  # scalar or [B]: the nucleus S of the defining model at temperature 1; 1 switches it off
    set: Literal["large", "tuned", "base"] = "tuned"  # whose own distribution defines S
    outside: Literal["keep", "drop"] = "keep"  # tokens outside S: z = tuned, or excluded
