"""The mixture's logits z (numerics.md §1), bit for bit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from eft_ext.ops.deprecated import renamed_bitmask
from eft_ext.ops.inputs import check_mass_fits
from eft_ext.ops.params import EFT_NAMES, ConservativeParams
from eft_ext.ops.reference.arithmetic import fma32
from eft_ext.ops.reference.conservative import reweighted
from eft_ext.ops.reference.options import weight_rows
from eft_ext.ops.reference.special_tokens import with_special
from eft_ext.ops.special_tokens import SpecialTokens


class MixedLogits(NamedTuple):
    """Mixed logits, and the models' own for what is said of each."""

    z: Tensor  # [B, V] fp32, -inf where excluded
    models: list[Tensor]  # K of [B, V] fp32, each -inf where that model itself excludes


def combine(
    logits: Sequence[Tensor],
    weights: Tensor | Sequence[float | Tensor],
    *,
    bias: Tensor | None = None,
    token_bitmask: Tensor | None = None,
    vocab_size: int | None = None,
    conservative: ConservativeParams | None = None,
    special_tokens: SpecialTokens | None = None,
    allowed: Tensor | None = None,
) -> Tensor:
    """The mixture's logits z, fp32 [B, V], with -inf where a token is excluded.

    Args:
        logits: K tensors [B, V_k], 1 ≤ K ≤ 4, bf16, fp16 or fp32; three are in the order large, tuned, base.
        weights: [K] or [B, K], or K numbers or tensors [B]; for `conservative` they are (scale, 1, -scale).
        bias: fp32 [V] or [B, V], added last.
        token_bitmask: int32 [B, ceil(V / 32)]; token i may be drawn where bit i % 32 of word i // 32 is set.
        vocab_size: V, the columns that count; the smallest V_k if not given.
        conservative: re-weight as Mitchell et al. do; needs the three models of up-scaling.
        special_tokens: ids that the models do not share (numerics.md §15).

    A token that is -inf or its dtype's lowest finite value in any model, or whose bit is 0, is excluded
    whatever the others say of it. A NaN or +inf elsewhere stays where the formula puts it. A row with a bad
    value in an option tensor, or one for which `conservative` lacks a distribution, is NaN throughout.

    Raises:
        ValueError: shapes that do not agree, a wrong number of models, a bad number among the options.
    """
    token_bitmask = renamed_bitmask(token_bitmask, allowed)
    return mix(logits, weights, bias, token_bitmask, vocab_size, conservative, special_tokens).z


def mix(
    logits: Sequence[Tensor],
    weights: Tensor | Sequence[float | Tensor],
    bias: Tensor | None,
    token_bitmask: Tensor | None,
    vocab_size: int | None,
    conservative: ConservativeParams | None,
    special_tokens: SpecialTokens | None = None,
) -> MixedLogits:
    """z beside the models' own logits; arguments and errors as for `combine`."""
    raw = _columns(logits, vocab_size)
    dropped = [(x == -math.inf) | (x == torch.finfo(x.dtype).min) for x in raw]
    excluded = torch.stack(dropped).any(dim=0)
    forbidden = torch.zeros_like(excluded) if token_bitmask is None else ~_unpacked(token_bitmask, raw[0])
    excluded |= forbidden
    x = [r.float() for r in raw]
    w, defined = weight_rows(weights, len(x), raw[0])

    z = w[:, :1] * x[0]
    for k in range(1, len(x)):
        z = fma32(w[:, k : k + 1], x[k], z)
    models = [torch.where(d, -math.inf, v) for d, v in zip(dropped, x, strict=True)]
    if conservative is not None:
        z, outside, fine = reweighted(z, models, w[:, 0], conservative)
        excluded |= outside
        defined = defined & fine
    added = None
    if bias is not None:
        if bias.ndim not in (1, 2) or bias.shape[-1] < z.shape[1]:
            raise ValueError(f"bias: expected [{z.shape[1]}] or {list(z.shape)}, got {list(bias.shape)}")
        added = bias[..., : z.shape[1]].to(z.device, torch.float32)
        z = z + added
    z = torch.where(excluded, -math.inf, z)
    if special_tokens is not None:
        names = EFT_NAMES if len(x) == len(EFT_NAMES) else [f"logits[{k}]" for k in range(len(x))]
        owner = special_tokens.index_of_owner(names)
        tau = x[owner] if added is None else x[owner] + added
        without = dropped[owner] | forbidden | ~(w[:, owner : owner + 1] > 0)
        z = with_special(z, tau, without, special_tokens)
    return MixedLogits(torch.where(defined[:, None], z, math.nan), models)


def _columns(logits: Sequence[Tensor], vocab_size: int | None) -> list[Tensor]:
    """The first V columns of every model, after the checks on shapes."""
    if not 1 <= len(logits) <= 4:
        raise ValueError(f"logits: expected 1 to 4 tensors, got {len(logits)}")
    if any(x.ndim != 2 for x in logits) or len({x.shape[0] for x in logits}) != 1:
        raise ValueError(f"logits: expected [B, V] of one batch, got {[list(x.shape) for x in logits]}")
    width = min(x.shape[1] for x in logits)
    size = width if vocab_size is None else vocab_size
    if logits[0].shape[0] == 0:
        raise ValueError("logits: expected a batch of at least one row, got none")
    if not 0 < size <= width:
        raise ValueError(f"vocab_size: expected 1 to {width}, got {size}")
    check_mass_fits(size)
    return [x[:, :size] for x in logits]


def _unpacked(token_bitmask: Tensor, like: Tensor) -> Tensor:
    """The bitmask as bool [B, V]; xgrammar's layout, 32 tokens to a word, lowest bit first."""
    batch, size = like.shape
    if token_bitmask.ndim != 2 or token_bitmask.shape[0] != batch or token_bitmask.shape[1] * 32 < size:
        raise ValueError(f"token_bitmask: expected [{batch}, {-(-size // 32)}], got {list(token_bitmask.shape)}")
    token = torch.arange(size, device=like.device)
    return (token_bitmask.to(like.device)[:, token // 32] >> (token % 32)) & 1 == 1
