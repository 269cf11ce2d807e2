"""What a named method tells the operations: which models, in which order, with which weights.

The methods themselves are in `eft_ext.methods`; the operations need no more of them than this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from eft_ext.ops.details import Conservative

Number = float | Tensor  # one for every row, or [B]


class Method(ABC):
    """How the logits of K models become one distribution (K from 1 to 4)."""

    @property
    @abstractmethod
    def models(self) -> tuple[str, ...]:
        """K names, in the order of logits and weights."""

    @abstractmethod
    def at(self, step: int | None) -> Method:
        """The method with its parameters as they are after `step` new tokens; itself where none is a function of it."""

    @abstractmethod
    def weights(self) -> tuple[Number, ...]:
        """K weights, numbers or tensors [B]."""

    def conservative(self) -> Conservative | None:
        """Conservative re-weighting beside the weights, which then are (scale, 1, -scale)."""
        return None

    def prepare(self, logits: Sequence[Tensor], vocab_size: int | None = None) -> Sequence[Tensor]:
        """The logits that are mixed, K of [B, V_k]: those given, but for tokens that the method excludes (-inf)."""
        return logits


def resolve(method: Method, logits: Sequence[Tensor], position: object) -> Method:
    """The method with numbers in place of functions of the step.

    Raises:
        ValueError: not one tensor for each model, or a function of the step without an integer `position`.
    """
    if isinstance(logits, Sequence) and len(logits) != len(method.models):
        order = ", ".join(method.models)
        raise ValueError(f"logits: expected {len(method.models)} tensors for {method!r} ({order}), got {len(logits)}")
    return method.at(position if isinstance(position, int) else None)
