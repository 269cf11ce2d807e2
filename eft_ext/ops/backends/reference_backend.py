"""The reference as a backend: any device, no speed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eft_ext.ops import reference
from eft_ext.ops.params import (
    EFT_NAMES,
    ConservativeParams,
    DraftParams,
    Integer,
    MixParams,
    Real,
    SamplingParams,
    ScoreParams,
)
from eft_ext.ops.reference import Filters
from eft_ext.ops.results import Score, StepDetails, VerifyResult

_SCORED_ELEMENTS = 1 << 22  # logits of all models scored at once, 32 MB in float64


def _option(option: Real | Integer) -> Any:
    if option.rows is None:
        return option.value
    return option.rows * option.value if isinstance(option, Real) else option.rows


def _mixture(mix: MixParams) -> dict[str, Any]:
    conservative = None
    if mix.conservative:
        outside = "drop" if mix.drop_outside else "keep"
        conservative = ConservativeParams(_option(mix.conservative_top_p), EFT_NAMES[mix.conservative - 1], outside)  # type: ignore[arg-type]
    return {
        "logits": mix.logits,
        "weights": [_option(w) for w in mix.weights],
        "conservative": conservative,
        "bias": mix.bias,
        "token_bitmask": mix.token_bitmask,
        "vocab_size": mix.vocab_size,
        "special_tokens": mix.special and mix.special.tokens,
    }


def step(
    mix: MixParams,
    sampling: SamplingParams,
    tokens: Tensor,
    details: StepDetails | None,
    workspace: Tensor | None = None,
) -> None:
    """Writes tokens, and details where given."""
    options = {name: _option(getattr(sampling, name)) for name in SamplingParams._fields}
    num_top = 0 if details is None else details.top_ids.shape[1]
    result = reference.step(**_mixture(mix), **options, top_logprobs=num_top)
    tokens.copy_(result.tokens)
    if details is not None:
        for field, value in zip(details[1:], result[1:], strict=True):
            field.copy_(value)


def combine(mix: MixParams, z: Tensor) -> None:
    """Writes the mixture's logits, fp32 [B, V]."""
    z.copy_(reference.combine(**_mixture(mix)))


def score(mix: MixParams, targets: Tensor, wanted: ScoreParams, out: Score) -> None:
    """Writes statistics, a few rows at a time, so that no tensor of all logits is made."""
    ignore_index, compared, num_top, num_changed = wanted
    step = max(1, _SCORED_ELEMENTS // (mix.vocab_size * len(mix.logits)))
    for start in range(0, mix.batch, step):
        rows = slice(start, start + step)
        with torch.no_grad():
            found = reference.score(
                targets=targets[rows],
                ignore_index=ignore_index,
                compared=compared,
                num_top=num_top,
                num_changed=num_changed,
                **_mixture(mix.select(rows)),
            )
        for field, value in zip(out, found, strict=True):
            field[rows] = value


def verify(mix: MixParams, sampling: SamplingParams, drafted: DraftParams, result: VerifyResult) -> None:
    """Writes the result. The logits of `mix` have a position axis, [B, k+1, V]."""
    options = {name: _option(getattr(sampling, name)) for name in SamplingParams._fields}
    of_p = Filters(*(options.pop(name) for name in Filters._fields))
    of_q = Filters(*(_option(getattr(drafted, name)) for name in Filters._fields))
    found = reference.verify(
        drafted.drafts,
        drafted.logits,
        **_mixture(mix),
        lengths=_option(drafted.lengths),
        filters=of_p,
        draft_filters=of_q,
        **options,
    )
    for field, value in zip(result, found, strict=True):
        field.copy_(value)
