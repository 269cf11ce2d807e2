"""Scoring from checked logits to statistics: which rows are scored together, eagerly or as an operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from eft_ext.ops.backends import torch_ops
from eft_ext.ops.backends.registry import choose_backend
from eft_ext.ops.params import MixParams, ScoreParams, tensors_of
from eft_ext.ops.positions import row_chunks
from eft_ext.ops.results import Score, new_score
from eft_ext.ops.tracing import needs_operator


def dispatch_score(
    logits: Sequence[Tensor],
    targets: Tensor,
    build: Callable[[Sequence[Tensor], slice], MixParams],
    wanted: ScoreParams,
    backend: str,
) -> Score:
    """Statistics of every position. `build` makes the mixture of some rows' logits [rows, V]."""
    flat = targets.reshape(-1).long().contiguous()  # [B·T]
    detached = [x.detach() for x in logits]

    def mixtures(copy: bool) -> list[tuple[slice, MixParams]]:
        return [(rows, build(chunk, rows)) for rows, chunk in row_chunks(detached, copy)]

    chunks = mixtures(copy=needs_operator(logits))
    if needs_operator([flat, *tensors_of(chunks[0][1])]):
        ((_, whole),) = chunks if len(chunks) == 1 else mixtures(copy=True)
        found = torch_ops.traced_score(whole, flat, wanted, backend)
    else:
        found = new_score((flat.shape[0],), len(logits), wanted.num_top, wanted.num_changed, flat.device)
        for rows, mix in chunks:
            choose_backend(backend, mix).score(mix, flat[rows], wanted, Score(*(field[rows] for field in found)))
    if targets.dim() == 1:
        return found
    return Score(*(field.unflatten(0, targets.shape) for field in found))
