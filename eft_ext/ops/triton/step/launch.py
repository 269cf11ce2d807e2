"""From a checked call to the two launches; `combine` has one, and more where it needs to know the row first."""

from __future__ import annotations

import triton
from torch import Tensor

from eft_ext.ops.params import MixParams, SamplingParams
from eft_ext.ops.results import StepDetails
from eft_ext.ops.triton.common.arguments import (
    compile_options,
    filters_of,
    has_own,
    kernel_mix,
    kernel_real,
    on_device,
)
from eft_ext.ops.triton.common.launch_sizes import LaunchSizes, num_tiles, sizes_for
from eft_ext.ops.triton.common.options import KernelReal, Options
from eft_ext.ops.triton.common.workspace import StepLayout, workspace
from eft_ext.ops.triton.step.combine import combine_kernel, combine_maxima_kernel
from eft_ext.ops.triton.step.details import Details
from eft_ext.ops.triton.step.rows import rows_kernel
from eft_ext.ops.triton.step.slices import slices_kernel


def step(
    mix: MixParams,
    sampling: SamplingParams,
    tokens: Tensor,
    details: StepDetails | None,
    scratch: Tensor | None = None,
    sizes: LaunchSizes | None = None,
) -> None:
    """Writes tokens, and details where given, on the current stream of the logits' device.

    `scratch` as `workspace` of `fused_step`. `sizes` overrides the table, for tests and measurements.
    """
    cut = sizes or sizes_for(mix.vocab_size, mix.batch)
    tiles = num_tiles(mix.vocab_size)
    greedy, top_k, top_p, lists = filters_of(sampling, mix.vocab_size)
    defining = mix.conservative - 1
    if details is not None or defining >= 0:
        cut = cut.for_more()
    elif top_k:
        cut = cut._replace(group=1)  # a second target costs the registers of a second tile (sm_80)
    layout = StepLayout(
        mix.batch * tiles, cut.slots, len(mix.logits), lists, defining >= 0, details is not None, has_own(mix)
    )
    inputs = kernel_mix(mix)
    options = Options(
        kernel_real(sampling.temperature),
        kernel_real(sampling.top_p),
        kernel_real(sampling.min_p),
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


def combine(mix: MixParams, z: Tensor, sizes: LaunchSizes | None = None) -> None:
    """Writes the mixture's logits, fp32 [B, V], on the current stream of their device."""
    cut = sizes or sizes_for(mix.vocab_size, mix.batch)
    tiles = num_tiles(mix.vocab_size)
    slices, defining, p = -(-tiles // cut.tiles), mix.conservative - 1, triton.next_power_of_2(tiles)
    inputs, own = kernel_mix(mix), has_own(mix)
    of_row = {"TILES": cut.tiles, "DEFINING": defining, "P": p, "SLOTS": cut.slots, "GROUP": min(cut.group, p)}
    warps = cut.rows_warps if defining >= 0 else cut.slices_warps
    with on_device(mix.device):
        work = None
        if defining >= 0 or own:
            layout = StepLayout(mix.batch * tiles, cut.slots, len(mix.logits), False, defining >= 0, False, own)
            work = workspace(layout, mix.device, None)
        if defining >= 0:
            one = KernelReal(1.0, None, 0)
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
        if own:
            combine_maxima_kernel[(mix.batch * slices,)](
                inputs, work, tiles, slices, **of_row, num_warps=warps, **compile_options()
            )
        combine_kernel[(mix.batch * slices,)](
            inputs, work, z, z.stride(0), tiles, slices, **of_row, num_warps=warps, **compile_options()
        )
