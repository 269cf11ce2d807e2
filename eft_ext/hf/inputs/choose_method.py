"""The method that a call's weights ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eft_ext.methods import Amplify, Conservative, Interpolate, MixingMethod, UpScale


def choose_method(
    default: MixingMethod, beta: Any = None, scale: Any = None, conservative_top_p: Any = None, method: Any = None
) -> MixingMethod:
    """A call's options over a model's own method, whose special tokens stay, unless it is another method.

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
        return method
    if not short:
        return default
    return _with_weights(default, given, short).with_special_tokens(default.special_tokens)


def _with_weights(default: MixingMethod, given: Mapping[str, Any], short: list[str]) -> MixingMethod:
    """The method of the three weights, `given` by name; `short` names those that are."""
    beta, scale, conservative_top_p = given.values()
    if default.models != UpScale.roles or not isinstance(default, (UpScale, Amplify, Conservative)):
        raise ValueError(f"{short[0]}: belongs to large, tuned and base, and this model's method is {default!r}")
    if beta is not None:
        asked = UpScale(beta)
        if len(short) > 1:
            raise ValueError(f"beta: expected nothing beside {short[1]}, which belongs to tuned + scale·(large − base)")
        return asked
    if scale is None and isinstance(default, UpScale) and not default.is_one:
        raise ValueError(
            "conservative_top_p: re-weights tuned + scale·(large − base), so this model's "
            f"beta={default.beta} does not apply; pass scale= as well"
        )
    scaled = Amplify(default.parameters.get("scale", 1.0) if scale is None else scale)
    own = default if isinstance(default, Conservative) else None
    top_p = own.top_p if own is not None and conservative_top_p is None else conservative_top_p
    if top_p is None:
        return scaled
    nucleus = ("tuned", "keep") if own is None else (own.nucleus_of, own.outside)
    try:
        return Conservative(top_p, *nucleus, method=scaled)
    except (TypeError, ValueError) as error:
        raise type(error)(f"conservative_{error}") from error  # the name that the option has here


def method_of(
    tuned: Any, beta: Any = None, scale: Any = None, conservative_top_p: Any = None, method: Any = None
) -> MixingMethod:
    """The method of models as they are given: several `tuned` ones by name, in equal shares if no method says else."""
    several = method is None and isinstance(tuned, Mapping)
    default = Interpolate(dict.fromkeys(tuned, 1 / max(1, len(tuned)))) if several else UpScale()
    return choose_method(default, beta, scale, conservative_top_p, method)
