"""From checked logits to their statistics: which rows are scored together, and the operator for tracing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eft_ext.ops.backends.registry import choose
from eft_ext.ops.params import MIXTURE_SCHEMA, Mixture, flatten, tensors_of, unflatten
from eft_ext.ops.positions import parts
from eft_ext.ops.scores import Score, new_score
from eft_ext.ops.tracing import is_traced


class Scoring(NamedTuple):
    """What is asked of each row, beside the mixture and the targets."""

    ignore_index: int
    compared: int
    num_top: int
    num_changed: int


def scoring(ignore_index: int, compared: int, num_top: int, num_changed: int, models: int) -> Scoring:
    """Checks the numbers."""
    wanted = Scoring(ignore_index, compared, num_top, num_changed)
    for name, value in wanted._asdict().items():
        low, high = {"ignore_index": (-(2**63), 2**63 - 1), "compared": (0, models - 1)}.get(name, (0, 2**20))
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
        if not low <= value <= high:
            raise ValueError(f"{name}: expected an integer from {low} to {high}, got {value}")
    return wanted


def launch(
    logits: Sequence[Tensor],
    targets: Tensor,
    build: Callable[[Sequence[Tensor], slice], Mixture],
    wanted: Scoring,
    backend: str,
) -> Score:
    """Statistics of every position. `build` makes the mixture of some rows' logits [rows, V]."""
    flat = targets.reshape(-1).long().contiguous()
    detached = [x.detach() for x in logits]

    def made(copy: bool) -> list[tuple[slice, Mixture]]:
        return [(rows, build(part, rows)) for rows, part in parts(detached, copy)]

    pieces = made(copy=is_traced(logits))
    if is_traced([flat, *tensors_of(pieces[0][1])]):
        ((_, whole),) = pieces if len(pieces) == 1 else made(copy=True)
        found = Score(*torch.ops.eft_ext.score(*flatten(whole), flat, *wanted, backend))
    else:
        found = new_score((flat.shape[0],), len(logits), wanted.num_top, wanted.num_changed, flat.device)
        for rows, mix in pieces:
            _run(mix, flat[rows], wanted, backend, Score(*(field[rows] for field in found)))
    if targets.dim() == 1:
        return found
    return Score(*(field.unflatten(0, targets.shape) for field in found))


def _run(mix: Mixture, targets: Tensor, wanted: Scoring, backend: str, out: Score) -> None:
    choose(backend, mix, None, details=False).score(mix, targets, wanted, out)


# ---- the operator, for tracing -----------------------------------------------------------------------------

_library = torch.library.Library("eft_ext", "FRAGMENT")
_library.define(
    f"score({MIXTURE_SCHEMA}, Tensor targets, int ignore_index, int compared, int num_top, int num_changed, "
    f"str backend) -> ({', '.join(['Tensor'] * len(Score._fields))})"
)


def _allocate(arguments: Sequence[Any]) -> tuple[Mixture, Tensor, Scoring, Score]:
    mix, _ = unflatten(arguments[:-6])
    targets, wanted = arguments[-6], Scoring(*arguments[-5:-1])
    out = new_score((mix.batch,), len(mix.logits), wanted.num_top, wanted.num_changed, mix.device)
    return mix, targets, wanted, out


def _score(*arguments: Any) -> tuple[Tensor, ...]:
    mix, targets, wanted, out = _allocate(arguments)
    _run(mix, targets.contiguous(), wanted, arguments[-1], out)
    return tuple(out)


_library.impl("score", _score, "CompositeExplicitAutograd")


@torch.library.register_fake("eft_ext::score", lib=_library)
def _fake_score(*arguments: Any) -> tuple[Tensor, ...]:
    return tuple(_allocate(arguments)[-1])
