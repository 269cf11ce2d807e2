"""From a checked call to the two launches."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from eft_ext.ops.params import GREEDY_BELOW, DraftParams, MixParams, Real, SamplingParams
from eft_ext.ops.results import StepDetails
from eft_ext.ops.triton.common.blocks import Blocks, blocks_for, num_tiles
from eft_ext.ops.triton.common.mix import Mix
from eft_ext.ops.triton.common.options import Options, RealOption
from eft_ext.ops.triton.common.workspace import Layout, workspace
from eft_ext.ops.triton.step.combine import combine_kernel
from eft_ext.ops.triton.step.details import Details
from eft_ext.ops.triton.step.rows import rows_kernel
from eft_ext.ops.triton.step.slices import slices_kernel


def compile_options() -> dict[str, Any]:
    """Nothing is fused, and no subnormal is flushed (Triton's floor would be: docs/triton-step.md)."""
    options: dict[str, Any] = {"enable_fp_fusion": False}
    return options if torch.version.hip else options | {"enable_reflect_ftz": False}


def real_option(option: Real) -> RealOption:
    rows = option.rows
    return RealOption(option.value, rows, 0 if rows is None else rows.stride(0))


def kernel_mix(mix: MixParams) -> Mix:
    def stride(x: Tensor | None) -> int:
        return 0 if x is None or x.dim() == 1 else x.stride(0)

    return Mix(
        logits=mix.logits,
        strides=tuple(x.stride(0) for x in mix.logits),
        weights=tuple(real_option(w) for w in mix.weights),
        vocab_size=mix.vocab_size,
        nucleus=real_option(mix.conservative_top_p if mix.conservative else Real(1.0)),
        drop=int(mix.drop_outside),
        bias=mix.bias,
        bias_stride=stride(mix.bias),
        token_bitmask=mix.token_bitmask,
        token_bitmask_stride=stride(mix.token_bitmask),
    )


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class Filters(NamedTuple):
    """What a call's kernels are made for."""

    greedy: bool  # in every row
    top_k: bool
    top_p: bool
    lists: bool  # any filter


def filters_of(sampling: SamplingParams | DraftParams, vocab_size: int) -> Filters:
    if sampling.temperature.rows is None and sampling.temperature.value < GREEDY_BELOW:
        return Filters(True, False, False, False)
    top_k = sampling.top_k.rows is not None or 0 < sampling.top_k.value < vocab_size
    top_p = sampling.top_p.rows is not None or sampling.top_p.value < 1
    min_p = sampling.min_p.rows is not None or sampling.min_p.value > 0
    return Filters(False, top_k, top_p, top_k or top_p or min_p)


def step(
    mix: MixParams,
    sampling: SamplingParams,
    tokens: Tensor,
    details: StepDetails | None,
    scratch: Tensor | None = None,
    blocks: Blocks | None = None,
) -> None:
    """Writes tokens, and details where given, on the current stream of the logits' device.

    `scratch` as `workspace` of `fused_step`. `blocks` overrides the table, for tests and measurements.
    """
    cut = blocks or blocks_for(mix.vocab_size, mix.batch)
    tiles = num_tiles(mix.vocab_size)
    greedy, top_k, top_p, lists = filters_of(sampling, mix.vocab_size)
    defining = mix.conservative - 1
    if details is not None or defining >= 0:
        cut = cut.for_more()
    elif top_k:
        cut = cut._replace(group=1)  # a second target costs the registers of a second tile (sm_80)
    layout = Layout(mix.batch * tiles, cut.slots, len(mix.logits), lists, defining >= 0, details is not None)
    inputs = kernel_mix(mix)
    options = Options(
        real_option(sampling.temperature),
        real_option(sampling.top_p),
        real_option(sampling.min_p),
        sampling.top_k.rows,
        sampling.seed.rows,
        sampling.position.rows,
    )
    fields = None if details is None else Details(*details[1:], num_top=details.top_ids.shape[1])
    constants = {
        "SLOTS": cut.slots,
        "DEFINING": defining,
        "LISTS": lists,
        "GREEDY": greedy,
        "DETAILS": details is not None,
    }
    p, slices = triton.next_power_of_2(tiles), -(-tiles // cut.tiles)
    with on_device(mix.device):
        work = workspace(layout, mix.device, scratch)
        slices_kernel[(mix.batch * slices,)](
            inputs,
            options,
            work,
            tiles,
            slices,
            TILES=cut.tiles,
            **constants,
            num_warps=cut.slices_warps,
            **compile_options(),
        )
        rows_kernel[(mix.batch,)](
            inputs,
            options,
            sampling.top_k.value,
            sampling.seed.value,
            sampling.position.value,
            work,
            tokens,
            fields,
            tiles,
            TOP_K=top_k,
            TOP_P=top_p,
            P=p,
            GROUP=min(cut.group, p),
            **constants,
            num_warps=cut.rows_warps,
            **compile_options(),
        )


def combine(mix: MixParams, z: Tensor, blocks: Blocks | None = None) -> None:
    """Writes the mixture's logits, fp32 [B, V], on the current stream of their device."""
    cut = blocks or blocks_for(mix.vocab_size, mix.batch)
    tiles = num_tiles(mix.vocab_size)
    slices, defining, p = -(-tiles // cut.tiles), mix.conservative - 1, triton.next_power_of_2(tiles)
    inputs = kernel_mix(mix)
    with on_device(mix.device):
        work = None
        if defining >= 0:
            layout = Layout(mix.batch * tiles, cut.slots, len(mix.logits), False, True, False)
            work = workspace(layout, mix.device, None)
            one = RealOption(1.0, None, 0)
            slices_kernel[(mix.batch * slices,)](
                inputs,
                Options(one, one, one, None, None, None),
                work,
                tiles,
                slices,
                TILES=cut.tiles,
                SLOTS=cut.slots,
                DEFINING=defining,
                LISTS=False,
                GREEDY=False,
                DETAILS=False,
                num_warps=cut.slices_warps,
                **compile_options(),
            )
        combine_kernel[(mix.batch * slices,)](
            inputs,
            work,
            z,
            z.stride(0),
            tiles,
            slices,
            TILES=cut.tiles,
            DEFINING=defining,
            P=p,
            SLOTS=cut.slots,
            GROUP=min(cut.group, p),
            num_warps=cut.rows_warps if defining >= 0 else cut.slices_warps,
            **compile_options(),
        )
