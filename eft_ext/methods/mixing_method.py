"""The base class of all methods: named parameters that may change while a generation runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import Self

from eft_ext.methods.deprecated import OldName, take_old_names
from eft_ext.methods.values import Value, checked, evaluated
from eft_ext.ops.method import Method, Number
from eft_ext.ops.special_tokens import SpecialTokens

UNBOUNDED = (float("-inf"), float("inf"))


class MixingMethod(Method):
    """A method with named parameters; the base class of all methods.

    A parameter is a number, one per row (a list or a tensor [B]), or a function of the step, the number of tokens
    generated so far. `set` changes parameters at any time; a running generation uses them from the next step, or round
    of drafts, that it launches. It calls functions once for each step, in order, when it launches that step.

    Attributes:
        formula: the mixture's logits in terms of the models' names and the parameters.
        roles: names of the models, in the order of logits and weights.
        ends: models whose end-of-text tokens end a text.
        adapter_base: the model that another one may be an adapter of; the two then share their weights.
        last_token_only: models that read the last token of the prompt unless they are given one of their own.
        bounds: (lowest, highest) value by parameter; others may be any finite number.
    """

    formula: ClassVar[str] = ""
    roles: ClassVar[tuple[str, ...]] = ()
    ends: ClassVar[tuple[str, ...]] = ()
    adapter_base: ClassVar[str | None] = None
    last_token_only: ClassVar[tuple[str, ...]] = ()
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {}

    _special_tokens: SpecialTokens | None = None
    foundation = OldName("adapter_base")
    alone = OldName("last_token_only")
    varies = OldName("is_scheduled")

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        take_old_names(cls, {old: name for old, name in vars(MixingMethod).items() if isinstance(name, OldName)})

    def __init__(self, **parameters: Any) -> None:
        self._held = [self._checked(parameters)]  # shared by what `with_special_tokens` returns

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, in the order of logits and weights; `roles` unless overridden."""
        return self.roles

    @property
    def ending(self) -> tuple[str, ...]:
        """Names of this method's models whose end-of-text tokens end a text."""
        return self.ends

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Names that stand for several of the models in a mapping by model, such as `prompts`."""
        return {}

    @property
    def parameters(self) -> Mapping[str, Value]:
        """The current parameters by name. `set` replaces the mapping and never changes it."""
        return self._held[0]

    @property
    def special_tokens(self) -> SpecialTokens | None:
        return self._special_tokens

    def with_special_tokens(self, special: SpecialTokens | None) -> Self:
        """Returns the method over models that do not share these tokens. `set` on either changes both."""
        other = copy.copy(self)
        other._held, other._special_tokens = self._held, special or None
        return other

    def __copy__(self) -> Self:
        other = object.__new__(type(self))
        other.__dict__ |= {**self.__dict__, "_held": [self.parameters]}
        return other

    @property
    def is_scheduled(self) -> bool:
        """True if a parameter is a function of the step."""
        return any(callable(value) and not isinstance(value, Tensor) for value in self.parameters.values())

    def set(self, **parameters: Any) -> None:
        """Changes parameters, all of them at once.

        Raises:
            TypeError, ValueError: a name that is no parameter of this method, or a value outside its bounds.
        """
        for name in parameters:
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                raise ValueError(f"{name}: not a parameter of {type(self).__name__}, which has {known}")
        self._held[0] = {**self.parameters, **self._checked(parameters)}

    def at(self, step: int | None) -> Self:
        """Returns the method with its parameters after `step` new tokens.

        Raises:
            ValueError: a parameter is a function of the step and `step` is None.
        """
        if not self.is_scheduled:
            return self
        return self.mapped(lambda name, value: evaluated(name, value, step, self.bounds.get(name, UNBOUNDED)))

    def mapped(self, change: Callable[[str, Any], Any]) -> Self:
        """Returns a copy of the method with `change(name, value)` in place of each parameter."""
        other = copy.copy(self)
        other._held = [{name: change(name, value) for name, value in self.parameters.items()}]
        return other

    def _checked(self, parameters: Mapping[str, Any]) -> dict[str, Value]:
        return {name: checked(name, v, *self.bounds.get(name, UNBOUNDED)) for name, v in parameters.items()}

    def number(self, name: str) -> Number:
        """Returns a parameter for `weights`. Raises ValueError for a function of the step, which `at` evaluates."""
        value = self.parameters[name]
        if callable(value) and not isinstance(value, Tensor):
            raise ValueError(f"position: expected an integer, since {name} is a function of it")
        return value

    def __getattr__(self, name: str) -> Any:
        (parameters,) = self.__dict__.get("_held", [{}])
        if name in parameters:
            return parameters[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={_short(value)}" for name, value in self.parameters.items())
        return f"{type(self).__name__}({inside})"


def _short(value: Value) -> str:
    if isinstance(value, Tensor):
        return f"tensor {list(value.shape)}"
    return getattr(value, "__name__", repr(value)) if callable(value) else f"{value:g}"
