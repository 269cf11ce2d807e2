"""Any weights over any models: what the named methods do not cover."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eft_ext.methods.mixing_method import MixingMethod
from eft_ext.ops.inputs import MAX_MODELS
from eft_ext.ops.method import Number


class Weighted(MixingMethod):
    """z = Σ_k weight_k·model_k, of one to four models by name.

    For example {"expert": 1.0, "amateur": −1.0}, contrastive decoding as first proposed (arXiv 2210.15097) without its
    constraint, or the ensemble {"a": 0.5, "b": 0.5}. The models' normalisers cancel.

    Args:
        models: {name: weight} in the order in which logits are given; the first one's tokenizer and prompt lead, and
            every model with a positive weight may end a text. A weight is a number, one per row, or a function of the
            step.

    Raises:
        TypeError, ValueError: not a mapping, none or too many models, a weight that is no number.
    """

    formula = "Σ weight·model"

    def __init__(self, models: Mapping[str, Any]) -> None:
        if not isinstance(models, Mapping):
            raise TypeError(f"models: expected a mapping of names to weights, got {type(models).__name__}")
        if not 1 <= len(models) <= MAX_MODELS or not all(isinstance(name, str) and name for name in models):
            raise ValueError(f"models: expected 1 to {MAX_MODELS} names, got {list(models)}")
        super().__init__(**models)

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self.parameters)

    @property
    def ending(self) -> tuple[str, ...]:
        return tuple(n for n, w in self.parameters.items() if not isinstance(w, float) or w > 0) or self.models[:1]

    def weights(self) -> tuple[Number, ...]:
        return tuple(self.number(name) for name in self.parameters)
