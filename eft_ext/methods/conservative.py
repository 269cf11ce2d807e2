"""Conservative re-weighting: full up-scaling only where a small model is sure of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from eft_ext.methods.mixing_method import MixingMethod
from eft_ext.methods.scaling import Amplify, UpScale
from eft_ext.ops.method import Number
from eft_ext.ops.params import EFT_NAMES, ConservativeParams


class Conservative(MixingMethod):
    """Up-scaling only inside the top-p nucleus of one model.

    Mitchell et al. 2023 (arXiv 2310.12962, conservative decoding strategies for up-scaled models): the ratio of large
    and base can be extreme on tokens that no model knows well. Inside S, the `top_p` nucleus of the `set` model's own
    distribution at temperature 1, log p = log tuned + scale·(log large − log base), of normalised log-probabilities;
    outside S the up-scaling weight is 1 and log p = log tuned. top_p = 1 switches it off.

    It re-weights methods of the form tuned + scale·(large − base): `Amplify`, and `UpScale` and `DownScale` at
    beta = 1. `set` changes `top_p` and `scale`.

    Args:
        top_p: mass of the nucleus, from 0 to 1; a number, one per row, or a function of the step.
        set: the model whose nucleus it is, by name.
        outside: "keep" gives tokens outside S the tuned model's probability, "drop" excludes them.
        method: the method to re-weight; `Amplify()` unless given.

    Raises:
        TypeError, ValueError: a mass outside [0, 1], an unknown name, a method of another form.
    """

    adapter_base = "base"
    formula = "tuned + scale·(large − base) inside the nucleus, tuned outside"
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {"top_p": (0.0, 1.0)}

    def __init__(
        self, top_p: Any, set: str = "tuned", outside: str = "keep", method: MixingMethod | None = None
    ) -> None:
        method = Amplify() if method is None else method
        if not isinstance(method, Amplify) and not (isinstance(method, UpScale) and method.is_one):
            raise ValueError(
                "method: expected the form tuned + scale·(large − base), which Amplify, UpScale(1) and DownScale(1) "
                f"have, got {method!r}"
            )
        if set not in method.models:
            raise ValueError(f"set: expected one of {', '.join(method.models)}, got {set!r}")
        if outside not in ("keep", "drop"):
            raise ValueError(f"outside: expected 'keep' or 'drop', got {outside!r}")
        self._models, self._ending = method.models, method.ending
        self.nucleus_of, self.outside = set, outside
        super().__init__(top_p=top_p, scale=method.parameters.get("scale", 1.0))

    @property
    def models(self) -> tuple[str, ...]:
        return self._models

    @property
    def ending(self) -> tuple[str, ...]:
        return self._ending

    def weights(self) -> tuple[Number, ...]:
        scale = self.number("scale")
        return scale, 1.0, -scale

    def conservative(self) -> ConservativeParams:
        place = self._models.index(self.nucleus_of)
        return ConservativeParams(self.number("top_p"), EFT_NAMES[place], self.outside)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        inside = super().__repr__()[:-1]
        return f"{inside}, set={self.nucleus_of!r}, outside={self.outside!r})"
