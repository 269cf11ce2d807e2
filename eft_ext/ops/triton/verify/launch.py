"""From a checked verification to its launches: four, or three where p is greedy."""

from __future__ import annotations

import triton

from eft_ext.ops.params import DraftParams, MixParams, SamplingParams
from eft_ext.ops.results import VerifyResult
from eft_ext.ops.triton.common.arguments import (
    compile_options,
    filters_of,
    has_own,
    kernel_mix,
    kernel_real,
    on_device,
)
from eft_ext.ops.triton.common.launch_sizes import LaunchSizes, num_tiles, sizes_for
from eft_ext.ops.triton.common.mix import KernelMix
from eft_ext.ops.triton.common.options import KernelReal, Options
from eft_ext.ops.triton.common.workspace import StepLayout, workspace
from eft_ext.ops.triton.verify.accept import Distribution
from eft_ext.ops.triton.verify.masses import masses_kernel, verify_slices_kernel
from eft_ext.ops.triton.verify.residual import residual_kernel, verdict_kernel
from eft_ext.ops.triton.verify.workspace import VerifyLayout


def verify(
    mix: MixParams,
    sampling: SamplingParams,
    drafted: DraftParams,
    result: VerifyResult,
    sizes: LaunchSizes | None = None,
) -> None:
    """Writes the result on the current stream of the logits' device. mix.logits: K of [B, k+1, V]; `sizes` as in
    `step`."""
    rows, k = drafted.drafts.shape
    tiles, defining = num_tiles(mix.vocab_size), mix.conservative - 1
    of_mixture, of_draft = filters_of(sampling, mix.vocab_size), filters_of(drafted, mix.vocab_size)
    reads_draft = drafted.logits is not None and not of_mixture.greedy and not of_draft.greedy
    cut = sizes or sizes_for(mix.vocab_size, rows * (k + 1))
    if defining >= 0 or of_mixture.top_k or (reads_draft and of_draft.top_k):
        cut = cut.for_more()
    if defining >= 0 and has_own(mix):
        cut = cut.for_more()  # both of them
    layout = VerifyLayout(
        rows,
        k,
        tiles,
        StepLayout(
            rows * (k + 1) * tiles, cut.slots, len(mix.logits), of_mixture.lists, defining >= 0, False, has_own(mix)
        ),
        StepLayout(rows * k * tiles, cut.slots, 1, of_draft.lists, False, False) if reads_draft else None,
    )
    slices, p = -(-tiles // cut.tiles), triton.next_power_of_2(tiles)
    constants = {"DEFINING": defining, "LISTS": of_mixture.lists, "DRAFTED": reads_draft, "DRAFT_LISTS": of_draft.lists}
    positions = {"KP": triton.next_power_of_2(max(k, 1) + 1)}
    common = compile_options()
    with on_device(mix.device):
        work = workspace(layout, mix.device, None)
        dist_p = Distribution(_positioned(kernel_mix(mix), mix), _options(sampling, sampling), work.p, work.p_summary)
        draft_mix = _draft_mix(mix, drafted) if reads_draft else None
        dist_q = Distribution(draft_mix, _options(drafted, sampling), work.q, work.q_summary)
        verify_slices_kernel[(rows * (k + 1) * slices,)](
            dist_p,
            dist_q,
            drafted.lengths.rows,
            drafted.lengths.value,
            k,
            tiles,
            slices,
            TILES=cut.tiles,
            SLOTS=cut.slots,
            GREEDY=of_mixture.greedy,
            SHARED=_shared(mix, drafted) if reads_draft else -1,
            **constants,
            num_warps=cut.slices_warps,
            **common,
        )
        num_flat_rows = rows * (k + 1)
        masses_kernel[(num_flat_rows + rows * k if reads_draft else num_flat_rows,)](
            dist_p,
            dist_q,
            drafted.drafts,
            drafted.lengths.rows,
            work.row_valid,
            sampling.top_k.value,
            drafted.top_k.value,
            drafted.lengths.value,
            sampling.seed.value,
            sampling.position.value,
            k,
            num_flat_rows,
            tiles,
            GREEDY=of_mixture.greedy,
            TOP_K=of_mixture.top_k,
            TOP_P=of_mixture.top_p,
            DRAFT_TOP_K=of_draft.top_k,
            DRAFT_TOP_P=of_draft.top_p,
            P=p,
            SLOTS=cut.slots,
            GROUP=min(cut.group, p),
            **constants,
            num_warps=cut.rows_warps,
            **common,
        )
        numbers = (drafted.lengths.value, sampling.seed.value, sampling.position.value, k, tiles)
        rows_of = (dist_p, dist_q, drafted.drafts, drafted.lengths.rows, work.row_valid, work.sums)
        if not of_mixture.greedy:
            residual_kernel[(rows * slices,)](
                *rows_of, *numbers, slices, TILES=cut.tiles, **constants, **positions, num_warps=4, **common
            )
        verdict_kernel[(rows,)](
            *rows_of, *result, *numbers, GREEDY=of_mixture.greedy, P=p, **constants, **positions, num_warps=4, **common
        )


def _options(filters: SamplingParams | DraftParams, sampling: SamplingParams) -> Options:
    return Options(
        kernel_real(filters.temperature),
        kernel_real(filters.top_p),
        kernel_real(filters.min_p),
        filters.top_k.rows,
        sampling.seed.rows,
        sampling.position.rows,
    )


def _positioned(made: KernelMix, mix: MixParams) -> KernelMix:
    token_bitmask = mix.token_bitmask
    return made._replace(
        positions=mix.logits[0].shape[1],
        position_strides=tuple(x.stride(1) for x in mix.logits),
        token_bitmask_position_stride=token_bitmask.stride(1)
        if token_bitmask is not None and token_bitmask.dim() == 3
        else 0,
    )


def _draft_mix(mix: MixParams, drafted: DraftParams) -> KernelMix:
    """The draft model alone; bias and `token_bitmask` are the mixture's."""
    assert drafted.logits is not None
    one = KernelReal(1.0, None, 0)
    plain = mix._replace(special=None)
    draft_mix = kernel_mix(plain)._replace(
        logits=(drafted.logits,), strides=(drafted.logits.stride(0),), weights=(one,), conservative_top_p=one, drop=0
    )
    return _positioned(draft_mix, mix._replace(logits=(drafted.logits,)))


def _shared(mix: MixParams, drafted: DraftParams) -> int:
    """The model of the mixture whose logits are the draft's own memory, so that they are read once; -1: none."""
    draft = drafted.logits
    assert draft is not None
    for k, x in enumerate(mix.logits):
        if x.data_ptr() == draft.data_ptr() and x.dtype == draft.dtype and x.stride()[:2] == draft.stride()[:2]:
            return k
    return -1
