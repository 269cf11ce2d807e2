"""The oracle: the step's distribution in float64, given t bit for bit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from eft_ext.ops.deprecated import renamed_bitmask
from eft_ext.ops.params import ConservativeParams
from eft_ext.ops.reference.arithmetic import inverse_temperature, scaled
from eft_ext.ops.reference.mass import REACHED, ranked
from eft_ext.ops.reference.mixture import MixedLogits, mix
from eft_ext.ops.reference.options import RowOptions, sampling_options
from eft_ext.ops.special_tokens import SpecialTokens


def distribution(
    logits: Sequence[Tensor],
    weights: Tensor | Sequence[float | Tensor],
    *,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor = 0,
    top_p: float | Tensor = 1.0,
    min_p: float | Tensor = 0.0,
    conservative: ConservativeParams | None = None,
    special_tokens: SpecialTokens | None = None,
    bias: Tensor | None = None,
    token_bitmask: Tensor | None = None,
    vocab_size: int | None = None,
    allowed: Tensor | None = None,
) -> Tensor:
    """The final filtered distribution, float64 [B, V], each row summing to 1.

    Mixing and scaling are fp32 as in every backend (numerics.md §1 and §2); the softmax and the filters, in
    transformers' order, are float64. A greedy row is one-hot. An invalid row (NaN or +inf, everything
    excluded, a bad value in an option tensor) is NaN throughout. Arguments and errors are those of `combine`
    and `step`.
    """
    token_bitmask = renamed_bitmask(token_bitmask, allowed)
    mixture = mix(logits, weights, bias, token_bitmask, vocab_size, conservative, special_tokens)
    options = sampling_options(mixture.z, temperature, top_k, top_p, min_p)
    t, valid = scaled_rows(mixture, options)
    # Greedy and invalid rows are computed as rows of zeros and overwritten, so that nothing else branches.
    sampled = valid & ~options.greedy
    filtered = _filtered(torch.where(sampled[:, None], t, 0.0), options)
    one_hot = torch.nn.functional.one_hot(greedy_tokens(mixture.z), t.shape[1]).double()
    probs = torch.where(options.greedy[:, None], one_hot, filtered)
    return torch.where(valid[:, None], probs, math.nan)


def scaled_rows(mixture: MixedLogits, options: RowOptions) -> tuple[Tensor, Tensor]:
    """t, fp32 [B, V], and the valid rows, bool [B]. Of a greedy row only z decides, and its t is z itself."""
    temperature = torch.where(options.greedy, 1.0, options.temperature)
    t = torch.where(options.greedy[:, None], mixture.z + 0.0, scaled(mixture.z, inverse_temperature(temperature)))
    undefined = mixture.z.isnan().any(dim=1) | (mixture.z == math.inf).any(dim=1)
    return t, options.good & ~undefined & t.amax(dim=1).isfinite()  # amax passes NaN on


def greedy_tokens(z: Tensor) -> Tensor:
    """The largest z of each row, the lowest id on ties (-0 = +0), int64 [B]; 0 where nothing is left."""
    return torch.argmax(z + 0.0, dim=1)  # documented to return the first of equals


def top_k_survivors(t: Tensor, order: Tensor, top_k: Tensor) -> Tensor:
    """t ≥ the k-th largest t, bool [B, V]; ties are kept, k = 0 is off and k > V means V."""
    rank = torch.where(top_k > 0, top_k, t.shape[1]).clamp(max=t.shape[1]) - 1
    kth = t.gather(1, order.gather(1, rank[:, None]))
    return (t >= kth) & (t > -math.inf)


def _filtered(t: Tensor, options: RowOptions) -> Tensor:
    """Softmax in base 2 with top-k, top-p and min-p, float64 [B, V]. t: fp32, finite or -inf."""
    exact = t.double()
    largest = exact.amax(dim=1, keepdim=True)
    mass = torch.exp2(exact - largest)

    order = ranked(t)
    kept = top_k_survivors(t, order, options.top_k)

    in_order = torch.where(kept, mass, 0.0).gather(1, order)
    above = in_order.cumsum(dim=1) - in_order
    p = options.top_p.double()[:, None]
    prefix = above < p * REACHED * in_order.sum(dim=1, keepdim=True)
    prefix[:, 0] = True
    kept &= torch.zeros_like(kept).scatter(1, order, prefix | (p == 1))

    kept &= exact >= largest + torch.log2(options.min_p.double())[:, None]  # log2(0) = -inf keeps all
    survivors = torch.where(kept, mass, 0.0)
    return survivors / survivors.sum(dim=1, keepdim=True)
