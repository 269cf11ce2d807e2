"""Positions [B] or [B, T] as the rows of calls that know [rows, V] only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from eft_ext.ops.inputs import MAX_MODELS, check_logits, in_memory


def check_positions(
    names: Sequence[str], logits: Sequence[Tensor], targets: Tensor
) -> tuple[tuple[Tensor, ...], Tensor]:
    """K tensors [..., V_k] over the targets' shape, which is [B] or [B, T]; what else is asked of logits.

    Returns:
        Logits and targets as they are in memory.
    """
    if not isinstance(targets, Tensor):
        raise TypeError(f"targets: expected an int64 tensor, got {type(targets).__name__}")
    if targets.dtype.is_floating_point or targets.dtype.is_complex or targets.element_size() < 4:
        raise TypeError(f"targets: expected int64 token ids, got {targets.dtype}")
    targets = in_memory("targets", targets)
    if targets.dim() not in (1, 2):
        raise ValueError(f"targets: expected [batch] or [batch, length], got shape {list(targets.shape)}")
    if not 1 <= len(logits) <= MAX_MODELS:
        raise ValueError(f"logits: expected 1 to {MAX_MODELS} tensors, got {len(logits)}")
    for name, x in zip(names, logits, strict=True):
        if isinstance(x, Tensor) and x.shape[:-1] != targets.shape:
            want = ", ".join(map(str, targets.shape))
            raise ValueError(f"{name}: expected [{want}, vocab] as the targets, got shape {list(x.shape)}")
    if targets.dim() == 2 and 0 in targets.shape:
        raise ValueError(f"targets: expected at least one position, got shape {list(targets.shape)}")
    check_logits(names, [x[0] if isinstance(x, Tensor) and x.dim() == 3 else x for x in logits])
    if targets.device != logits[0].device:
        raise ValueError(f"targets: expected a tensor on {logits[0].device} as the logits, got {targets.device}")
    return tuple(in_memory(name, x) for name, x in zip(names, logits, strict=True)), targets


def row_chunks(logits: Sequence[Tensor], copy: bool) -> Iterator[tuple[slice, list[Tensor]]]:
    """The logits as [rows, V] without a copy, and which rows of [B·T] they are: in one piece, or one for each b.

    With `copy` always in one piece.
    """
    shape = logits[0].shape[:-1]
    if len(shape) == 1:
        yield slice(0, shape[0]), list(logits)
        return
    batch, length = shape
    if copy or batch == 1 or length == 1 or all(x.stride(0) == length * x.stride(1) for x in logits):
        yield slice(0, batch * length), [x.flatten(0, 1) for x in logits]
        return
    for b in range(batch):
        yield slice(b * length, (b + 1) * length), [x[b] for x in logits]


def option_rows(name: str, option: Any, targets: Tensor, rows: slice) -> Any:
    """A number as it is; a tensor [B] or like the targets as those rows of [B·T]."""
    if not isinstance(option, Tensor):
        return option
    if option.shape != targets.shape and option.shape != targets.shape[:1]:
        want = " or ".join(dict.fromkeys((str(list(targets.shape[:1])), str(list(targets.shape)))))
        raise ValueError(f"{name}: expected a scalar or a tensor {want}, got shape {list(option.shape)}")
    if option.shape != targets.shape:
        option = option[:, None].expand(targets.shape)
    return option.reshape(-1)[rows]
