"""The reference as a backend: any device, no speed."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from eft_ext.ops import reference
from eft_ext.ops.call import SETS, Mixture, Sampling
from eft_ext.ops.details import Conservative, StepDetails
from eft_ext.ops.inputs import Integer, Real


def _option(option: Real | Integer) -> Any:
    if option.rows is None:
        return option.value
    return option.rows * option.value if isinstance(option, Real) else option.rows


def _mixture(mix: Mixture) -> dict[str, Any]:
    conservative = None
    if mix.conservative:
        outside = "drop" if mix.drop_outside else "keep"
        conservative = Conservative(_option(mix.conservative_top_p), SETS[mix.conservative - 1], outside)  # type: ignore[arg-type]
    return {
        "logits": mix.logits,
        "weights": [_option(w) for w in mix.weights],
        "conservative": conservative,
        "bias": mix.bias,
        "allowed": mix.allowed,
        "vocab_size": mix.vocab_size,
    }


def step(
    mix: Mixture, draw: Sampling, tokens: Tensor, details: StepDetails | None, workspace: Tensor | None = None
) -> None:
    """Writes tokens, and details where given; takes no workspace."""
    options = {name: _option(getattr(draw, name)) for name in Sampling._fields}
    num_top = 0 if details is None else details.top_ids.shape[1]
    result = reference.step(**_mixture(mix), **options, top_logprobs=num_top)
    tokens.copy_(result.tokens)
    if details is not None:
        for field, value in zip(details[1:], result[1:], strict=True):
            field.copy_(value)


def combine(mix: Mixture, z: Tensor) -> None:
    """Writes the mixture's logits, fp32 [B, V]."""
    z.copy_(reference.combine(**_mixture(mix)))
