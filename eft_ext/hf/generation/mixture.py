"""The weights of the mixture in one generation: a method, and its parameters for the rows that are in the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from eft_ext.methods import Amplify, Conservative, Interpolate, MixingMethod, UpScale
from eft_ext.methods.values import Value
from eft_ext.ops import combine, fused_mix, fused_step
from eft_ext.ops.method import Method, Number
from eft_ext.ops.params import ConservativeParams


@dataclass(frozen=True)
class Mixture:
    """z = Σ_k weights_k·logits_k and the conservative settings, of K models in the method's order.

    In a generation: `choose`, `per_row`, `to`, then at every step `at(step)` and either `sample` or `combine`; `keep`
    when rows leave the batch. Who launches a step itself reads `weights` and `conservative`, unless `needs_python`.

    Attributes:
        method: as the user gave it; what `method.set` changes is seen by the next `at`.
        now: the same with numbers or tensors [rows] as parameters.
    """

    method: MixingMethod = field(default_factory=UpScale)
    now: MixingMethod = None  # type: ignore[assignment]  # the method itself, unless given
    _taken: Mapping[str, Value] | None = None  # the parameters that `now` was made of
    _rows: tuple[int, int] | None = None  # rows of the batch at its start, and how often each prompt stands in it
    _device: torch.device | None = None
    _kept: Tensor | None = None  # which of those rows are left

    def __post_init__(self) -> None:
        if self.now is None:
            object.__setattr__(self, "now", self.method)
            object.__setattr__(self, "_taken", self.method.parameters)

    @classmethod
    def choose(
        cls, default: Mixture, beta: Any = None, scale: Any = None, conservative_top_p: Any = None, method: Any = None
    ) -> Mixture:
        """A call's options over a model's own.

        Raises:
            ValueError: two of them contradict each other, or one holds what is not finite.
            TypeError: one is neither a number nor numbers, or `method` is no method.
        """
        given = {"beta": beta, "scale": scale, "conservative_top_p": conservative_top_p}
        short = [name for name, value in given.items() if value is not None]
        if method is not None:
            if not isinstance(method, MixingMethod):
                raise TypeError(f"method: expected one of eft_ext.methods, got {method!r}")
            if short:
                raise ValueError(f"{short[0]}: expected nothing beside method={method!r}, which brings its own")
            return cls(method)
        if not short:
            return default
        own = default.method
        if own.models != UpScale.roles or not isinstance(own, (UpScale, Amplify, Conservative)):
            raise ValueError(f"{short[0]}: belongs to large, tuned and base, and this model's method is {own!r}")
        if beta is not None:
            asked = UpScale(beta)
            if len(short) > 1:
                raise ValueError(
                    f"beta: expected nothing beside {short[1]}, which belongs to tuned + scale·(large − base)"
                )
            return cls(asked)
        if scale is None and isinstance(own, UpScale) and not own.is_one:
            raise ValueError(
                "conservative_top_p: re-weights tuned + scale·(large − base), so this model's "
                f"beta={own.beta} does not apply; pass scale= as well"
            )
        scaled = Amplify(own.parameters.get("scale", 1.0) if scale is None else scale)
        top_p = default.conservative_top_p if conservative_top_p is None else conservative_top_p
        if top_p is None:
            return cls(scaled)
        nucleus = (own.nucleus_of, own.outside) if isinstance(own, Conservative) else ("tuned", "keep")
        try:
            return cls(Conservative(top_p, *nucleus, method=scaled))
        except (TypeError, ValueError) as error:
            raise type(error)(f"conservative_{error}") from error  # the name that the option has here

    @property
    def beta(self) -> Number | None:
        return self.now.parameters.get("beta") if isinstance(self.now, UpScale) else None  # type: ignore[return-value]

    @property
    def scale(self) -> Number | None:
        form = isinstance(self.now, (Amplify, Conservative))
        return self.now.parameters.get("scale") if form else None  # type: ignore[return-value]

    @property
    def conservative_top_p(self) -> Number | None:
        form = isinstance(self.now, Conservative)
        return self.now.parameters.get("top_p") if form else None  # type: ignore[return-value]

    @cached_property
    def weights(self) -> tuple[Number, ...]:
        """K numbers or tensors [rows], on the device of `to`."""
        return self.now.weights()

    @cached_property
    def conservative(self) -> ConservativeParams | None:
        """The nucleus of conservative re-weighting, None where there is none."""
        return self.now.conservative()

    @property
    def scalars(self) -> tuple[Any, ...]:
        """The options that are the same for all rows, which a prepared step holds; "rows" for those that are not."""
        found = (*self.weights, *(self.conservative or ()))
        return (self.now.models, *("rows" if isinstance(value, Tensor) else value for value in found))

    @property
    def needs_python(self) -> str:
        """The reason why the weights cannot be fixed for a generation's steps; empty where there is none."""
        if self.method.is_scheduled:
            return "the weights are a function of the step"
        if type(self.method).prepare is not Method.prepare:
            return f"{type(self.method).__name__} excludes tokens by what the models say"
        return ""

    def per_row(self, rows: int, copies: int) -> Mixture:
        """Spread lists and tensors over the rows of a batch, each prompt standing `copies` times."""
        return replace(self, _rows=(rows, copies))._taking(0)

    def to(self, device: torch.device) -> Mixture:
        """The options of the rows on the device of the logits."""
        return replace(self._map(lambda option: option.to(device)), _device=device)

    def of_rows(self) -> MixingMethod:
        """The method with parameters for the rows of the whole batch; functions of the step remain such."""
        rows, copies = self._rows or (1, 1)

        def row(name: str, value: Any) -> Any:
            if callable(value) and not isinstance(value, Tensor):
                return lambda step: row(name, self.method.at(step).parameters[name])
            value = spread(name, value, rows, copies)
            return value.to(self._device) if isinstance(value, Tensor) else value

        return self.method.mapped(row)

    def keep(self, rows: Tensor) -> Mixture:
        """The options of these rows only (indices into the present ones)."""
        kept = rows if self._kept is None else self._kept.to(rows.device)[rows]
        return replace(self._map(lambda option: option[rows]), _kept=kept)

    def at(self, step: int) -> Mixture:
        """The weights of the token that follows `step` new ones; itself where nothing has changed."""
        if self._taken is self.method.parameters and not self.method.is_scheduled:
            return self
        return self._taking(step)

    def _taking(self, step: int) -> Mixture:
        """With the method's parameters as they are at `step`, for the rows that are left and where they are."""
        taken = self.method.parameters
        method = self.method.at(step)
        rows, copies = self._rows or (1, 1)

        def row(name: str, value: Any) -> Any:
            value = spread(name, value, rows, copies)
            if not isinstance(value, Tensor):
                return value
            value = value if self._kept is None else value[self._kept.to(value.device)]
            return value if self._device is None else value.to(self._device)

        return replace(self, now=method.mapped(row), _taken=taken)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Mixture:
        return replace(self, now=self.now.mapped(lambda name, v: change(v) if isinstance(v, Tensor) else v))

    def sample(self, logits: Sequence[Tensor], **options: Any) -> Tensor:
        """Draw from the mixture of K logits [rows, vocab_k]: token ids [rows], −1 for an invalid row."""
        if self.beta is not None:
            return fused_step(*logits, beta=self.beta, **options)
        if isinstance(self.now, Amplify):
            return fused_step(*logits, scale=self.scale, **options)
        return fused_mix(logits, self.now, **options)

    def combine(self, logits: Sequence[Tensor]) -> Tensor:
        """The mixture's own logits, fp32 [rows, vocab_size]; excluded tokens are −inf."""
        return combine(logits, self.now)


def mixture_of(
    tuned: Any, beta: Any = None, scale: Any = None, conservative_top_p: Any = None, method: Any = None
) -> Mixture:
    """The mixture of models as they are given: several `tuned` ones by name, in equal shares if no method says else."""
    several = method is None and isinstance(tuned, Mapping)
    default = Mixture(Interpolate(dict.fromkeys(tuned, 1 / max(1, len(tuned))))) if several else Mixture()
    return Mixture.choose(default, beta, scale, conservative_top_p, method)


def spread(name: str, value: Any, rows: int, copies: int) -> Any:
    """A number stays as it is; a tensor becomes one of [rows].

    Raises ValueError unless there is one value per prompt or one per returned sequence.
    """
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 0:
        return value.expand(rows).contiguous()
    if value.ndim == 1 and copies > 1 and value.shape[0] == rows // copies:
        return value.repeat_interleave(copies)
    if value.shape != (rows,):
        expected = f"{rows} values" if copies == 1 else f"{rows // copies} or {rows} values"
        raise ValueError(f"{name}: expected a number or {expected}, one per row, got shape {list(value.shape)}")
    return value
