"""The interface between named methods and the operations: models, their order, their weights.

The methods themselves are in `eft_ext.methods`; the operations need no more of them than this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from eft_ext.ops.params import ConservativeParams
from eft_ext.ops.special_tokens import SpecialTokens

Number = float | Tensor  # one for every row, or [B]


class Method(ABC):
    """A rule by which the logits of K models become one distribution (K from 1 to 4)."""

    @property
    @abstractmethod
    def models(self) -> tuple[str, ...]:
        """Names of the K models, in the order of logits and weights."""

    @abstractmethod
    def at(self, step: int | None) -> Method:
        """Returns the method with its parameters after `step` new tokens; itself if none is a function of the step."""

    @abstractmethod
    def weights(self) -> tuple[Number, ...]:
        """Returns the K weights, numbers or tensors [B]. A method of your own overrides this."""

    def conservative(self) -> ConservativeParams | None:
        """Returns the nucleus of conservative re-weighting, or None. The weights then are (scale, 1, -scale)."""
        return None

    def prepare(self, logits: Sequence[Tensor], vocab_size: int | None = None) -> Sequence[Tensor]:
        """Returns the K tensors [B, V_k] to mix: those given, with -inf at tokens that the method excludes."""
        return logits

    @property
    def special_tokens(self) -> SpecialTokens | None:
        """The tokens that its models do not share (numerics.md §15)."""
        return None

    @property
    def is_scheduled(self) -> bool:
        """True where a parameter is a function of the step."""
        return False

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Numbers, tensors [B] or functions of the step, by name."""
        return {}

    def mapped(self, change: Callable[..., Any]) -> Method:
        """The same method with `change(name, value)` in place of each parameter."""
        return self


def resolve(method: Method, logits: Sequence[Tensor], position: object) -> Method:
    """The method with numbers in place of functions of the step.

    Raises:
        ValueError: not one tensor for each model, or a function of the step without an integer `position`.
    """
    check_count(method, logits)
    return method.at(position if isinstance(position, int) else None)


def check_count(method: Method, logits: Sequence[Tensor]) -> None:
    """Raises ValueError unless there is a tensor for each model."""
    if isinstance(logits, Sequence) and len(logits) != len(method.models):
        order = ", ".join(method.models)
        raise ValueError(f"logits: expected {len(method.models)} tensors for {method!r} ({order}), got {len(logits)}")


def at_positions(method: Method, shape: torch.Size, position: int | Tensor | None, device: torch.device) -> Method:
    """The method at many positions at once: functions of the step become tensors of their shape, [B] or [B, T].

    Args:
        position: the step of each position, of their shape; or of the first of T, an integer or [B].

    Raises:
        ValueError: a function of the step without a position, or one of another shape.
    """
    if not method.is_scheduled:
        return method
    if position is None:
        return method.at(None)  # which says what is missing
    if torch.compiler.is_compiling():
        raise ValueError(f"method: expected fixed parameters in compiled code, got functions of the step in {method!r}")
    steps = torch.as_tensor(position, device="cpu")
    if steps.shape != shape:
        if steps.shape not in (torch.Size(), shape[:1]):
            wanted = f"an integer or a tensor {list(shape[:1])} or {list(shape)}"
            raise ValueError(f"position: expected {wanted}, got shape {list(steps.shape)}")
        counting = torch.arange(shape[1] if len(shape) == 2 else 1)
        steps = (steps.reshape(-1, 1) + counting).expand(shape[0], -1).reshape(shape)
    taken = {step: method.at(step).parameters for step in steps.unique().tolist()}

    def at_each(name: str, given: Any) -> Any:
        if isinstance(given, (float, Tensor)):
            return given
        found = torch.empty(shape, dtype=torch.float32)
        for step, parameters in taken.items():
            value = torch.as_tensor(parameters[name], dtype=torch.float32, device="cpu")
            if value.numel() not in (1, shape[0]):
                came = list(value.shape)
                raise ValueError(f"{name} of step {step}: expected a number or {shape[0]}, got shape {came}")
            rows = value.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
            found = torch.where(steps == step, rows, found)
        return found.to(device)

    return method.mapped(at_each)
