"""Interpolation of behaviours: several small fine-tuned models mixed at test time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from typing_extensions import Self

from eft_ext.methods.mixing_method import UNBOUNDED, MixingMethod
from eft_ext.methods.values import checked, evaluated, linear
from eft_ext.ops.method import Number

MOST = 2  # behaviours beside large and base, four models being what one step mixes


class Interpolate(MixingMethod):
    """z = large + Σ_k λ_k·(tuned_k − base): the behaviours of several small models, in any proportion.

    The paper's test-time reward interpolation, r_λ = λ·r_a + (1 − λ)·r_b, with both rewards relative to one base. The
    models' order is large, the behaviours as given, base. Weights need not sum to 1. λ = 1 and 0 are
    `UpScale(1)` with the one or the other tuned model.

    Args:
        behaviours: {name: λ}, one or two of them. Each λ is a number, one per row, or a function of the step.
            `set(name=λ)` changes it during a generation.

    Raises:
        TypeError, ValueError: not a mapping, too many behaviours, a name that is taken, a weight that is no number.
    """

    formula = "large + Σ λ·(tuned − base)"
    adapter_base = "base"

    def __init__(self, behaviours: Mapping[str, Any]) -> None:
        if not isinstance(behaviours, Mapping):
            raise TypeError(f"behaviours: expected a mapping of names to weights, got {type(behaviours).__name__}")
        if not 1 <= len(behaviours) <= MOST:
            raise ValueError(f"behaviours: expected 1 to {MOST} of them, got {len(behaviours)}")
        for name in behaviours:
            if not isinstance(name, str) or not name or name in ("large", "base", "tuned"):
                raise ValueError(f"behaviours: expected names other than large, tuned and base, got {name!r}")
        super().__init__(**behaviours)

    @classmethod
    def between(cls, one: str, other: str, share: Any) -> Self:
        """Makes the mixture of λ = `share` of `one` and 1 − λ of `other`; a number, one per row, or a function."""
        value = checked("share", share)
        if isinstance(value, (float, Tensor)):
            return cls({one: value, other: linear(1.0, (-1.0, value))})

        def rest(step: int) -> Number:
            return linear(1.0, (-1.0, evaluated(other, value, step, UNBOUNDED)))

        return cls({one: value, other: rest})

    @property
    def behaviours(self) -> tuple[str, ...]:
        """Names of the fine-tuned models."""
        return tuple(self.parameters)

    @property
    def models(self) -> tuple[str, ...]:
        return "large", *self.parameters, "base"

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        return {"tuned": self.behaviours}

    @property
    def ending(self) -> tuple[str, ...]:
        return "large", *self.parameters

    def weights(self) -> tuple[Number, ...]:
        each = [self.number(name) for name in self.parameters]
        return 1.0, *each, linear(0.0, *((-1.0, weight) for weight in each))
