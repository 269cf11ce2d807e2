"""A method's weights for the rows of one call, as the operations take them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from eft_ext.ops.method import Method, Number
from eft_ext.ops.params import ConservativeParams
from eft_ext.ops.special_tokens import SpecialTokens


@dataclass(frozen=True)
class RowWeights(Method):
    """The weights of K models for some rows, as numbers or tensors [rows]."""

    names: tuple[str, ...]
    values: tuple[Number, ...]
    settings: ConservativeParams | None = None
    special: SpecialTokens | None = None

    @property
    def models(self) -> tuple[str, ...]:
        return self.names

    def at(self, step: int | None) -> Method:
        return self

    def weights(self) -> tuple[Number, ...]:
        return self.values

    def conservative(self) -> ConservativeParams | None:
        return self.settings

    @property
    def special_tokens(self) -> SpecialTokens | None:
        return self.special

    @property
    def numbers(self) -> list[Number]:
        """All that may differ between rows: the weights, then the nucleus."""
        return [*self.values, *([] if self.settings is None else [self.settings.top_p])]

    @property
    def scalars(self) -> tuple[Any, ...]:
        """The names, and the numbers that are the same for all rows; "rows" for those that are not."""
        found = (*self.numbers, *(self.settings or ())[1:])
        return (self.names, self.special, *("rows" if isinstance(value, Tensor) else value for value in found))

    def mapped(self, change: Callable[[str, Any], Any]) -> RowWeights:
        values = tuple(change(name, value) for name, value in zip(self.names, self.values, strict=True))
        settings = self.settings and self.settings._replace(top_p=change("top_p", self.settings.top_p))
        return replace(self, values=values, settings=settings)

    def with_tensors(self, change: Callable[[Tensor], Tensor]) -> RowWeights:
        """The same with `change` of each tensor."""
        return self.mapped(lambda name, value: change(value) if isinstance(value, Tensor) else value)


@dataclass(frozen=True)
class ExcludingRowWeights(RowWeights):
    """Weights of a method that excludes tokens by the models' logits; `method` has its parameters for the rows."""

    method: Method | None = None

    def prepare(self, logits: Sequence[Tensor], vocab_size: int | None = None) -> Sequence[Tensor]:
        assert self.method is not None
        return self.method.prepare(logits, vocab_size)

    @property
    def numbers(self) -> list[Number]:
        assert self.method is not None
        return [*super().numbers, *self.method.parameters.values()]

    def mapped(self, change: Callable[[str, Any], Any]) -> RowWeights:
        assert self.method is not None
        return replace(super().mapped(change), method=self.method.mapped(change))  # type: ignore[call-arg]
