"""Methods as JSON has them: a name and plain numbers, {"name": "UpScale", "beta": 1.0}."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from eft_ext.methods.conservative import Conservative
from eft_ext.methods.interpolate import Interpolate
from eft_ext.methods.mixing_method import MixingMethod
from eft_ext.methods.pairs import Contrast, Guidance, Plain, Realign
from eft_ext.methods.scaling import Amplify, DownScale, UpScale
from eft_ext.methods.weighted import Weighted

_PLAIN = {cls.__name__: cls for cls in (Amplify, Contrast, DownScale, Guidance, Plain, Realign, UpScale)}
_OF_NAMES = {cls.__name__: cls for cls in (Interpolate, Weighted)}  # names in an order, which JSON's keys may lose


def to_dict(method: MixingMethod) -> dict[str, Any]:
    """The method's name and parameters.

    Raises:
        ValueError: a class of the caller's own, or a parameter that is no single number.
    """
    name = type(method).__name__
    for parameter, value in method.parameters.items():
        if not isinstance(value, float):
            came = "a function of the step" if callable(value) and not hasattr(value, "shape") else "one for each row"
            raise ValueError(f"{parameter}: expected a number in a checkpoint, got {came}")
    values: dict[str, Any] = dict(method.parameters)
    if type(method) is _PLAIN.get(name):
        return {"name": name, **values}
    if type(method) is _OF_NAMES.get(name):
        return {"name": name, "models": list(values), "weights": list(values.values())}
    if type(method) is Conservative:
        up_scaling = method.models == Amplify.roles
        inner = Amplify(values["scale"]) if up_scaling else DownScale(values["scale"])
        own = {"top_p": values["top_p"], "set": method.nucleus_of, "outside": method.outside}
        return {"name": name, **own, "method": to_dict(inner)}
    raise ValueError(f"method: expected one of eft_ext.methods in a checkpoint, got {method!r}")


def from_dict(given: Any) -> MixingMethod:
    """The method of `to_dict`.

    Raises:
        ValueError: no such method, or parameters that are not its own.
    """
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise ValueError(f'method: expected {{"name": ..., parameters}}, got {given!r}')
    name, values = given["name"], {key: value for key, value in given.items() if key != "name"}
    makers: dict[str, Callable[..., MixingMethod]] = {**_PLAIN, **_OF_NAMES, "Conservative": Conservative}
    if name not in makers:
        raise ValueError(f"method: expected one of {', '.join(sorted(makers))}, got {name!r}")
    if "method" in values:
        values["method"] = from_dict(values["method"])
    try:
        if name in _OF_NAMES:
            return makers[name](dict(zip(values.pop("models"), values.pop("weights"), strict=True)), **values)
        return makers[name](**values)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"method {name}: {error}") from error
