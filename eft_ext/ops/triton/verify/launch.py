"""From a checked verification to its launches: four, or three where p is greedy."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from eft_ext.ops.params import DraftParams, MixParams, SamplingParams
from eft_ext.ops.results import VerifyResult
from eft_ext.ops.triton.common.blocks import Blocks, blocks_for, num_tiles
from eft_ext.ops.triton.common.mix import Mix
from eft_ext.ops.triton.common.options import Options, RealOption
from eft_ext.ops.triton.common.workspace import Layout, Work, place_fields, size_of, workspace
from eft_ext.ops.triton.step.launch import compile_options, filters_of, kernel_mix, on_device, real_option
from eft_ext.ops.triton.verify.accept import Head, Side
from eft_ext.ops.triton.verify.residual import residual_kernel, verdict_kernel
from eft_ext.ops.triton.verify.weigh import verify_slices_kernel, weigh_kernel


class VerifyWork(NamedTuple):
    p: Work
    q: Work | None
    p_head: Head
    q_head: Head | None
    row_valid: Tensor  # int32 [B]
    sums: Tensor  # int64 [B, tiles], of the residual


class VerifyLayout(NamedTuple):
    """What a verification keeps, and how much room that takes."""

    rows: int
    num_drafts: int
    tiles: int  # of a row
    p: Layout
    q: Layout | None

    def heads(self) -> list[tuple[str, str, torch.dtype, int]]:
        f32, i32, i64 = torch.float32, torch.int32, torch.int64
        kept: list[tuple[str, str, torch.dtype, int]] = [("row", "valid", i32, self.rows)]
        kept.append(("row", "sums", i64, self.rows * self.tiles))
        for part, layout, positions in (("p", self.p, self.num_drafts + 1), ("q", self.q, self.num_drafts)):
            n = self.rows * positions
            if layout is None:
                continue
            kept += [(part, name, i64, n) for name in ("total", "mass")]
            kept += [(part, name, f32, n) for name in ("limit", "reference")]
            kept.append((part, "valid", i32, n))
            if layout.lists:
                kept.append((part, "ties", i32, n * self.tiles))
            if part == "p":
                kept += [("p", "token", i32, n), ("p", "share", i64, n * self.tiles)]
            if layout.conservative:
                kept += [("p", "area_limit", f32, n), ("p", "area_last", i32, n), ("p", "area_delta", f32, n)]
        return kept

    def size(self) -> int:
        """Bytes."""
        return self.p.size() + (self.q.size() if self.q else 0) + size_of(self.heads())

    def place(self, buffer: Tensor) -> VerifyWork:
        """The fields inside of a uint8 buffer."""
        middle = self.p.size()
        end = middle + (self.q.size() if self.q else 0)
        fields = place_fields(self.heads(), buffer[end:])
        q = self.q.place(buffer[middle:end]) if self.q else None
        return VerifyWork(
            self.p.place(buffer[:middle]),
            q,
            _head(fields["p"]),
            _head(fields["q"]) if self.q else None,
            fields["row"]["valid"],
            fields["row"]["sums"],
        )


def _head(fields: dict[str, Tensor]) -> Head:
    return Head(**{name: fields.get(name) for name in Head._fields})


def verify(
    mix: MixParams, sampling: SamplingParams, drafted: DraftParams, result: VerifyResult, blocks: Blocks | None = None
) -> None:
    """Writes the result on the current stream of the logits' device. mix.logits: K of [B, k+1, V]; `blocks` as in
    `step`."""
    rows, k = drafted.drafts.shape
    tiles, defining = num_tiles(mix.vocab_size), mix.conservative - 1
    own, of_draft = filters_of(sampling, mix.vocab_size), filters_of(drafted, mix.vocab_size)
    reads_draft = drafted.logits is not None and not own.greedy and not of_draft.greedy
    cut = blocks or blocks_for(mix.vocab_size, rows * (k + 1))
    if defining >= 0 or own.top_k or (reads_draft and of_draft.top_k):
        cut = cut.for_more()
    layout = VerifyLayout(
        rows,
        k,
        tiles,
        Layout(rows * (k + 1) * tiles, cut.slots, len(mix.logits), own.lists, defining >= 0, False),
        Layout(rows * k * tiles, cut.slots, 1, of_draft.lists, False, False) if reads_draft else None,
    )
    slices, p = -(-tiles // cut.tiles), triton.next_power_of_2(tiles)
    sides = {"DEFINING": defining, "LISTS": own.lists, "DRAFTED": reads_draft, "DRAFT_LISTS": of_draft.lists}
    positions = {"KP": triton.next_power_of_2(max(k, 1) + 1)}
    common = compile_options()
    with on_device(mix.device):
        work = workspace(layout, mix.device, None)
        side_p = Side(_positioned(kernel_mix(mix), mix), _options(sampling, sampling), work.p, work.p_head)
        draft_mix = _draft_mix(mix, drafted) if reads_draft else None
        side_q = Side(draft_mix, _options(drafted, sampling), work.q, work.q_head)
        verify_slices_kernel[(rows * (k + 1) * slices,)](
            side_p,
            side_q,
            drafted.lengths.rows,
            drafted.lengths.value,
            k,
            tiles,
            slices,
            TILES=cut.tiles,
            SLOTS=cut.slots,
            GREEDY=own.greedy,
            SHARED=_shared(mix, drafted) if reads_draft else -1,
            **sides,
            num_warps=cut.slices_warps,
            **common,
        )
        lines = rows * (k + 1)
        weigh_kernel[(lines + rows * k if reads_draft else lines,)](
            side_p,
            side_q,
            drafted.drafts,
            drafted.lengths.rows,
            work.row_valid,
            sampling.top_k.value,
            drafted.top_k.value,
            drafted.lengths.value,
            sampling.seed.value,
            sampling.position.value,
            k,
            lines,
            tiles,
            GREEDY=own.greedy,
            TOP_K=own.top_k,
            TOP_P=own.top_p,
            DRAFT_TOP_K=of_draft.top_k,
            DRAFT_TOP_P=of_draft.top_p,
            P=p,
            SLOTS=cut.slots,
            GROUP=min(cut.group, p),
            **sides,
            num_warps=cut.rows_warps,
            **common,
        )
        numbers = (drafted.lengths.value, sampling.seed.value, sampling.position.value, k, tiles)
        rows_of = (side_p, side_q, drafted.drafts, drafted.lengths.rows, work.row_valid, work.sums)
        if not own.greedy:
            residual_kernel[(rows * slices,)](
                *rows_of, *numbers, slices, TILES=cut.tiles, **sides, **positions, num_warps=4, **common
            )
        verdict_kernel[(rows,)](
            *rows_of, *result, *numbers, GREEDY=own.greedy, P=p, **sides, **positions, num_warps=4, **common
        )


def _options(filters: SamplingParams | DraftParams, sampling: SamplingParams) -> Options:
    return Options(
        real_option(filters.temperature),
        real_option(filters.top_p),
        real_option(filters.min_p),
        filters.top_k.rows,
        sampling.seed.rows,
        sampling.position.rows,
    )


def _positioned(made: Mix, mix: MixParams) -> Mix:
    token_bitmask = mix.token_bitmask
    return made._replace(
        positions=mix.logits[0].shape[1],
        position_strides=tuple(x.stride(1) for x in mix.logits),
        token_bitmask_position_stride=token_bitmask.stride(1)
        if token_bitmask is not None and token_bitmask.dim() == 3
        else 0,
    )


def _draft_mix(mix: MixParams, drafted: DraftParams) -> Mix:
    """The draft model alone; bias and `token_bitmask` are the mixture's."""
    assert drafted.logits is not None
    one = RealOption(1.0, None, 0)
    alone = kernel_mix(mix)._replace(
        logits=(drafted.logits,), strides=(drafted.logits.stride(0),), weights=(one,), nucleus=one, drop=0
    )
    return _positioned(alone, mix._replace(logits=(drafted.logits,)))


def _shared(mix: MixParams, drafted: DraftParams) -> int:
    """Which model of the mixture has the draft's logits in the same memory, so that they are read once; -1: none."""
    draft = drafted.logits
    assert draft is not None
    for k, x in enumerate(mix.logits):
        if x.data_ptr() == draft.data_ptr() and x.dtype == draft.dtype and x.stride()[:2] == draft.stride()[:2]:
            return k
    return -1
