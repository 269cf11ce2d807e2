"""The weights of the mixture and the options that may differ from row to row."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eft_ext.ops import combine, fused_step

Scalar = float | Tensor  # one value, or one per row


@dataclass(frozen=True)
class Mixture:
    """z = large + beta·(tuned − base), or z = tuned + scale·(large − base) where `scale` is given."""

    beta: Scalar = 1.0
    scale: Scalar | None = None
    conservative_top_p: Scalar | None = None

    @classmethod
    def choose(cls, default: Mixture, beta: Any, scale: Any, conservative_top_p: Any) -> Mixture:
        """A call's options over a model's own.

        Raises:
            ValueError: two of them contradict each other, or one holds what is not finite.
            TypeError: one is neither a number nor numbers.
        """
        for name, value in (("beta", beta), ("scale", scale), ("conservative_top_p", conservative_top_p)):
            _check(name, value)
        if beta is not None and (scale is not None or conservative_top_p is not None):
            other = "scale" if scale is not None else "conservative_top_p"
            raise ValueError(f"beta: expected nothing beside {other}, which belongs to tuned + scale·(large − base)")
        if beta is not None:
            return cls(beta=beta)
        if scale is None and conservative_top_p is None:
            return default
        inherited = default.scale if scale is None else scale
        if inherited is None and not (isinstance(default.beta, (int, float)) and default.beta == 1.0):
            raise ValueError(
                "conservative_top_p: re-weights tuned + scale·(large − base), so this model's "
                f"beta={default.beta} does not apply; pass scale= as well"
            )
        top_p = default.conservative_top_p if conservative_top_p is None else conservative_top_p
        return cls(scale=1.0 if inherited is None else inherited, conservative_top_p=top_p)

    def per_row(self, rows: int, copies: int) -> Mixture:
        """Spread lists and tensors over the rows of a batch, each prompt standing `copies` times."""
        return Mixture(**{name: spread(name, value, rows, copies) for name, value in vars(self).items()})

    def to(self, device: torch.device) -> Mixture:
        """The options of the rows on the device of the logits."""
        return self._map(lambda option: option.to(device))

    def keep(self, rows: Tensor) -> Mixture:
        """The options of these rows only."""
        return self._map(lambda option: option[rows])

    def _map(self, change: Callable[[Tensor], Tensor]) -> Mixture:
        return Mixture(**{k: change(v) if isinstance(v, Tensor) else v for k, v in vars(self).items()})

    def repeated(self, times: int) -> Mixture:
        """Each row's options `times` times in a row."""
        return self._map(lambda option: option.repeat_interleave(times))

    @property
    def options(self) -> dict[str, Any]:
        """As keyword arguments of `fused_step` and `fused_score`."""
        if self.scale is None:
            return {"beta": self.beta}
        return {"scale": self.scale, "conservative_top_p": self.conservative_top_p}

    def sample(self, logits: Sequence[Tensor], **options: Any) -> Tensor:
        """Draw from the mixture of three logits [rows, vocab_k]: token ids [rows], −1 for an invalid row."""
        if self.scale is None:
            return fused_step(*logits, beta=self.beta, **options)
        return fused_step(*logits, scale=self.scale, conservative_top_p=self.conservative_top_p, **options)

    def combine(self, logits: Sequence[Tensor]) -> Tensor:
        """The mixture's own logits, fp32 [rows, vocab_size]; excluded tokens are −inf."""
        a = self.beta if self.scale is None else self.scale
        weights = (1.0, a, -a) if self.scale is None else (a, 1.0, -a)
        return combine(list(logits), list(weights), conservative_top_p=self.conservative_top_p)


def _check(name: str, value: Any) -> None:
    """Raise unless `value` is nothing, a finite number, or a list or tensor of them."""
    if value is None:
        return
    wanted = f"{name}: expected a finite number or one per row, got {value!r}"
    if isinstance(value, (bool, str)):
        raise TypeError(wanted)
    try:
        finite = math.isfinite(value) if isinstance(value, numbers.Real) else bool(_floats(value).isfinite().all())
    except (TypeError, ValueError, RuntimeError) as error:  # what as_tensor raises depends on what it is given
        raise TypeError(wanted) from error
    if not finite:
        raise ValueError(wanted)


def _floats(value: Any) -> Tensor:
    """Numbers as float32 where they are, lists on the CPU whatever torch's default device is."""
    return torch.as_tensor(value, dtype=torch.float32, device=value.device if isinstance(value, Tensor) else "cpu")


def spread(name: str, value: Any, rows: int, copies: int) -> Any:
    """A number stays as it is; a list or tensor becomes a float tensor [rows].

    Raises ValueError unless there is one value per prompt or one per returned sequence.
    """
    if value is None or isinstance(value, (int, float)):
        return value
    row = _floats(value)
    if row.ndim == 0:
        return row.expand(rows).contiguous()
    if row.ndim == 1 and copies > 1 and row.shape[0] == rows // copies:
        return row.repeat_interleave(copies)
    if row.shape != (rows,):
        expected = f"{rows} values" if copies == 1 else f"{rows // copies} or {rows} values"
        raise ValueError(f"{name}: expected a number or {expected}, one per row, got shape {list(row.shape)}")
    return row
