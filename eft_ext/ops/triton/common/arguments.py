"""Parameters of a call as the kernels take them, and the options that every kernel is compiled with."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eft_ext.ops.params import GREEDY_BELOW, DraftParams, MixParams, Real, SamplingParams
from eft_ext.ops.triton.common.mix import KernelMix
from eft_ext.ops.triton.common.options import KernelReal


def compile_options() -> dict[str, Any]:
    """Nothing is fused, and no subnormal is flushed (Triton's floor would be: docs/internals/triton-step.md)."""
    options: dict[str, Any] = {"enable_fp_fusion": False}
    return options if torch.version.hip else options | {"enable_reflect_ftz": False}


def kernel_real(option: Real) -> KernelReal:
    rows = option.rows
    return KernelReal(option.value, rows, 0 if rows is None else rows.stride(0))


def has_own(mix: MixParams) -> bool:
    """True where a model has tokens of its own."""
    return mix.special is not None and mix.special.owner >= 0


def kernel_mix(mix: MixParams) -> KernelMix:
    def stride(x: Tensor | None) -> int:
        return 0 if x is None or x.dim() == 1 else x.stride(0)

    tiles, masks, owner = mix.special or (None, None, -1)

    return KernelMix(
        logits=mix.logits,
        strides=tuple(x.stride(0) for x in mix.logits),
        weights=tuple(kernel_real(w) for w in mix.weights),
        vocab_size=mix.vocab_size,
        conservative_top_p=kernel_real(mix.conservative_top_p if mix.conservative else Real(1.0)),
        drop=int(mix.drop_outside),
        bias=mix.bias,
        bias_stride=stride(mix.bias),
        token_bitmask=mix.token_bitmask,
        token_bitmask_stride=stride(mix.token_bitmask),
        special_tiles=tiles,
        special_masks=masks,
        owner=tuple(1 if k == owner else None for k in range(len(mix.logits))) if has_own(mix) else None,
    )


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class FilterFlags(NamedTuple):
    """The filters that a call's kernels are compiled for."""

    greedy: bool  # in every row
    top_k: bool
    top_p: bool
    lists: bool  # any filter


def filters_of(sampling: SamplingParams | DraftParams, vocab_size: int) -> FilterFlags:
    if sampling.temperature.rows is None and sampling.temperature.value < GREEDY_BELOW:
        return FilterFlags(True, False, False, False)
    top_k = sampling.top_k.rows is not None or 0 < sampling.top_k.value < vocab_size
    top_p = sampling.top_p.rows is not None or sampling.top_p.value < 1
    min_p = sampling.min_p.rows is not None or sampling.min_p.value > 0
    return FilterFlags(False, top_k, top_p, top_k or top_p or min_p)
