"""From a checked call to score to its launches: four, two more before them with conservative re-weighting, and then
two where a model has tokens of its own."""

from __future__ import annotations

import triton
from torch import Tensor

from eft_ext.ops.params import MixParams, ScoreParams
from eft_ext.ops.results import Score
from eft_ext.ops.triton.common.arguments import compile_options, has_own, kernel_mix, on_device
from eft_ext.ops.triton.common.launch_sizes import TILE, num_tiles, sizes_for
from eft_ext.ops.triton.common.workspace import StepLayout, workspace
from eft_ext.ops.triton.score.compare import score_changes_kernel, score_compare_kernel
from eft_ext.ops.triton.score.nuclei import score_masses_kernel, score_nuclei_kernel
from eft_ext.ops.triton.score.own_tokens import score_deltas_kernel, score_maxima_kernel
from eft_ext.ops.triton.score.read import score_read_kernel
from eft_ext.ops.triton.score.rows import Stats, score_rows_kernel
from eft_ext.ops.triton.score.workspace import PART, ScoreLayout

ROWS = 1024  # at once, which bounds the workspace
READ_WARPS = 4  # one for each part of a tile (parts.py)


def join_warps(parts: int) -> int:
    """Two parts a thread, where there are as many."""
    return min(max(parts // 64, 4), 16)


def score(mix: MixParams, targets: Tensor, wanted: ScoreParams, out: Score) -> None:
    """Writes statistics on the current stream of the logits' device."""
    if mix.batch <= ROWS:
        _score(mix, targets, wanted, out)
        return
    for start in range(0, mix.batch, ROWS):
        rows = slice(start, start + ROWS)
        _score(mix.select(rows), targets[rows], wanted, Score(*(field[rows] for field in out)))


def _score(mix: MixParams, targets: Tensor, wanted: ScoreParams, out: Score) -> None:
    ignore_index, compared, num_top, num_changed = wanted
    batch, tiles, defining = mix.batch, num_tiles(mix.vocab_size), mix.conservative - 1
    cut = sizes_for(mix.vocab_size, batch).for_more()
    slices, p, parts = -(-tiles // cut.tiles), triton.next_power_of_2(tiles), tiles * (TILE // PART)
    nuclei = StepLayout(batch * tiles, cut.slots, len(mix.logits), False, True, False) if defining >= 0 else None
    inputs, stats = kernel_mix(mix), Stats(**out._asdict())
    grid, per_slice = (batch * slices,), {"TILES": cut.tiles, "DEFINING": defining}
    per_row = {"P": triton.next_power_of_2(parts), "DEFINING": defining}
    read, join = ({"num_warps": warps, **compile_options()} for warps in (READ_WARPS, join_warps(per_row["P"])))
    with on_device(mix.device):
        work = workspace(ScoreLayout(batch, len(mix.logits), parts, nuclei, has_own(mix)), mix.device, None)
        if defining >= 0:
            score_masses_kernel[grid](
                inputs, targets, ignore_index, work, tiles, slices, SLOTS=cut.slots, **per_slice, **read
            )
            score_nuclei_kernel[(batch,)](
                inputs,
                targets,
                ignore_index,
                work,
                tiles,
                SLOTS=cut.slots,
                GROUP=min(cut.group, p),
                DEFINING=defining,
                P=p,
                num_warps=cut.rows_warps,
                **compile_options(),
            )
        if has_own(mix):
            score_maxima_kernel[grid](inputs, targets, ignore_index, work, tiles, slices, **per_slice, **read)
            score_deltas_kernel[(batch,)](inputs, work, tiles, P=p, num_warps=4, **compile_options())
        score_read_kernel[grid](inputs, targets, ignore_index, work, tiles, slices, **per_slice, **read)
        score_rows_kernel[(batch * (len(mix.logits) + 1),)](
            inputs, stats, targets, ignore_index, num_top, work, parts, **per_row, **join
        )
        score_compare_kernel[grid](inputs, work, tiles, slices, COMPARED=compared, **per_slice, **read)
        score_changes_kernel[(2 * batch,)](
            inputs, stats, num_changed, work, parts, COMPARED=compared, **per_row, **join
        )
