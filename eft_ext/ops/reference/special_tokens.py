"""Tokens that the models do not share (numerics.md §15)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from eft_ext.ops.special_tokens import SpecialTokens


def with_special(z: Tensor, tau: Tensor, without: Tensor, special: SpecialTokens) -> Tensor:
    """The mixture's logits with the formula's at own tokens, and -inf at those that are never drawn.

    Args:
        z: of the mixture with its bias, fp32 [B, V], -inf where excluded; special columns are not looked at.
        tau: the owner's logits with the same bias, fp32 [B, V].
        without: bool [B, V], own tokens that are excluded.
    """
    own, never = (_marked(ids, z) for ids in (special.own, special.never))
    z = torch.where(own | never, -math.inf, z)
    ordinary = z != -math.inf  # NaN and +inf too
    best = z.amax(dim=1, keepdim=True)
    best_of_owner = torch.where(ordinary, tau, -math.inf).amax(dim=1, keepdim=True)
    delta = torch.where(ordinary.any(dim=1, keepdim=True), best - best_of_owner, 0.0)
    delta = torch.where(best.isnan() | (best == math.inf), math.nan, delta)
    return torch.where(own, torch.where(without, -math.inf, tau + delta), z)


def _marked(ids: tuple[int, ...], like: Tensor) -> Tensor:
    """bool [V]"""
    found = torch.zeros(like.shape[1], dtype=torch.bool, device=like.device)
    found[[i for i in ids if i < like.shape[1]]] = True
    return found
