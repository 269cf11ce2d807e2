"""Conservative re-weighting (Mitchell et al.): full up-scaling only where one model is sure."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from eft_ext.ops.params import EFT_NAMES, ConservativeParams
from eft_ext.ops.reference.arithmetic import LN_2, LOG2_E, fma32, log2, scaled
from eft_ext.ops.reference.mass import mass_threshold, masses, nucleus, ranked
from eft_ext.ops.reference.options import per_row, unit_interval


def reweighted(
    plain: Tensor, models: list[Tensor], scale: Tensor, conservative: ConservativeParams
) -> tuple[Tensor, Tensor, Tensor]:
    """z before the bias, the tokens it drops bool [B, V], and the rows it is defined for bool [B].

    plain: fp32 [B, V], tuned + scale·(large - base), which rows with q = 1 keep.
    models: three of fp32 [B, V], -inf where each excludes. scale: fp32 [B].

    Inside S, z = scale·large + tuned - scale·base + δ; outside, tuned alone or nothing. The nucleus and the
    normalisers see the models' own logits only: neither `token_bitmask` nor the bias moves them. NaN, +inf or
    nothing at all in a model leaves a row undefined. q = 0 leaves one token in S, as top_p = 0 does.
    """
    if len(models) != 3:
        raise ValueError(f"conservative: expected large, tuned and base, got {len(models)} logits tensors")
    if conservative.set not in EFT_NAMES or conservative.outside not in ("keep", "drop"):
        raise ValueError(f"conservative: expected set in {EFT_NAMES}, outside keep or drop, got {conservative}")
    q, q_good = per_row(
        "conservative_top_p", conservative.top_p, plain, torch.float32, unit_interval, "a number in [0, 1]"
    )
    c = torch.full_like(q, LOG2_E)
    t = [scaled(x, c) for x in models]
    proper = torch.stack([x.amax(dim=1).isfinite() for x in t]).all(dim=0)
    active = q_good & proper & (q < 1)
    z, outside = plain.clone(), torch.zeros_like(plain, dtype=torch.bool)
    if bool(active.any()):
        lse = {name: log_normaliser(x[active]) for name, x in zip(EFT_NAMES, t, strict=True)}
        up = scale[active, None]
        delta = (up.double() * (lse["base"] - lse["large"])[:, None]).float()
        large, tuned, base = (x[active] for x in models)
        inner = fma32(-up, base, fma32(torch.ones_like(up), tuned, up * large)) + delta
        inside = top_mass(t[EFT_NAMES.index(conservative.set)][active], q[active])
        z[active] = torch.where(inside, inner, tuned)
        if conservative.outside == "drop":
            outside[active] = ~inside
    return z, outside, active | (q == 1)


def log_normaliser(t: Tensor) -> Tensor:
    """ln Σ 2^t from the integer mass, float64 [B]; t as for `masses`."""
    mass = masses(t)
    z = mass.shares(mass.at_tile().sum(dim=2)).sum(dim=1)
    lse = [LN_2 * ((a - 40.0) + log2(float(total))) for a, total in zip(mass.row_n.tolist(), z.tolist(), strict=True)]
    return torch.tensor(lse, dtype=torch.float64, device=t.device)


def top_mass(t: Tensor, q: Tensor) -> Tensor:
    """S, the top-q nucleus of t's own distribution, bool [B, V]: rank 0 always belongs. t as for `masses`."""
    mass = masses(t)
    total = mass.shares(mass.at_tile().sum(dim=2)).sum(dim=1)
    weight = mass.at_row().flatten(1)[:, : t.shape[1]]
    return nucleus(ranked(t), weight, t > -math.inf, mass_threshold(q, total))
