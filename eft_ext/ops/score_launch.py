"""From checked logits to their statistics: the CPU kernel, or plain PyTorch in pieces of a few rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eft_ext.ops import native, plain, reference
from eft_ext.ops.backend import NAMES, backends
from eft_ext.ops.call import MIXTURE_SCHEMA, Mixture, flatten, is_traced, unflatten
from eft_ext.ops.inputs import Real
from eft_ext.ops.positions import parts
from eft_ext.ops.scores import Score, new_score

_PLAIN_ELEMENTS = 1 << 22  # logits of all models in one piece of plain PyTorch, 32 MB in float64


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
    traced = is_traced(logits)
    flat = targets.reshape(-1).long().contiguous()
    detached = [x.detach() for x in logits]
    if traced:
        ((rows, part),) = parts(detached, copy=True)
        operator = torch.ops.eft_ext.score
        found = Score(*operator(*flatten(build(part, rows)), flat, *wanted, backend))
    else:
        found = new_score((flat.shape[0],), len(logits), wanted.num_top, wanted.num_changed, flat.device)
        for rows, part in parts(detached, copy=False):
            _run(build(part, rows), flat[rows], wanted, backend, Score(*(field[rows] for field in found)))
    if targets.dim() == 1:
        return found
    return Score(*(field.unflatten(0, targets.shape) for field in found))


def _run(mix: Mixture, targets: Tensor, wanted: Scoring, backend: str, out: Score) -> None:
    if backend not in ("auto", *NAMES):
        raise ValueError(f"backend: expected 'auto' or one of {NAMES}, got {backend!r}")
    if backend == "reference" or (backend == "auto" and mix.device.type != "cpu"):
        return _plain(mix, targets, wanted, out)
    found = backends()["cpu" if backend == "auto" else backend]
    if not found.available:
        raise RuntimeError(f"backend: {backend!r} is not usable here: {found.reason}; to enable it: {found.remedy}")
    if found.name != "cpu":
        raise NotImplementedError(f"backend: {backend!r} of this version does not score; 'cpu' and 'reference' do")
    if mix.device.type != "cpu":
        raise ValueError(f"backend: 'cpu' expects tensors on cpu, got {mix.device}")
    addresses = [field.data_ptr() if field.numel() else 0 for field in out]
    head = (native.isa(), *native._mixture(mix), targets.data_ptr(), wanted.ignore_index, wanted.compared)
    native._native.score(*head, addresses, wanted.num_top, wanted.num_changed)


def _plain(mix: Mixture, targets: Tensor, wanted: Scoring, out: Score) -> None:
    """A few rows at a time, so that no tensor of all logits is made."""
    step = max(1, _PLAIN_ELEMENTS // (mix.vocab_size * len(mix.logits)))
    for start in range(0, mix.batch, step):
        rows = slice(start, start + step)
        arguments = plain._mixture(_rows(mix, rows))
        with torch.no_grad():
            found = reference.score(targets=targets[rows], **arguments, **wanted._asdict())
        for field, value in zip(out, found, strict=True):
            field[rows] = value


def _rows(mix: Mixture, which: slice) -> Mixture:
    """The same for some rows of a mixture without bias and bitmask."""

    def option(real: Real) -> Real:
        return real if real.rows is None else real._replace(rows=real.rows[which])

    return mix._replace(
        logits=tuple(x[which] for x in mix.logits),
        weights=tuple(option(w) for w in mix.weights),
        conservative_top_p=option(mix.conservative_top_p),
    )


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
