"""`--method` and what belongs to it, shared by the commands that generate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from eft_ext import methods
from eft_ext.cli.outputs import models_read
from eft_ext.methods.interpolate import MOST

_PANEL = "Method"


class Name(str, Enum):
    """The methods by the names that the command line has for them."""

    up_scale = "up-scale"
    down_scale = "down-scale"
    amplify = "amplify"
    interpolate = "interpolate"
    contrast = "contrast"
    realign = "realign"
    guidance = "guidance"
    plain = "plain"
    weighted = "weighted"


Method = Annotated[
    Name | None,
    typer.Option(
        help="How the models are mixed; guides/methods.md explains each. Default: up-scale, or amplify with --scale.",
        rich_help_panel=_PANEL,
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model", metavar="NAME=MODEL", help="A model by the name its method has for it.", rich_help_panel=_PANEL
    ),
]
Weight = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=NUMBER", help="weighted: of each model, in the order of the models.", rich_help_panel=_PANEL
    ),
]
Beta = Annotated[
    float | None,
    typer.Option(
        help="up-scale, down-scale: weight of tuned - base (1). contrast: its strength (0.5).", rich_help_panel=_PANEL
    ),
]
Scale = Annotated[
    float | None,
    typer.Option(help="amplify: weight of large - base (1). guidance: its strength (1.5).", rich_help_panel=_PANEL),
]
Share = Annotated[
    float | None,
    typer.Option(
        "--lambda",
        help="interpolate: share of the first behaviour (0.5). realign: how aligned (1).",
        rich_help_panel=_PANEL,
    ),
]
Plausibility = Annotated[
    float | None,
    typer.Option(
        help="contrast: a token stays from this share of the expert's largest probability on (0.1).",
        rich_help_panel=_PANEL,
    ),
]
ConservativeTopP = Annotated[
    float | None,
    typer.Option(help="Up-scale only inside this nucleus of the tuned model.", rich_help_panel=_PANEL),
]
ConservativeSet = Annotated[
    str | None, typer.Option(help="The model whose nucleus it is: tuned, large or base.", rich_help_panel=_PANEL)
]
ConservativeOutside = Annotated[
    str | None,
    typer.Option(help="Outside it: keep the tuned model's probability, or drop the token.", rich_help_panel=_PANEL),
]
NegativePrompt = Annotated[
    str | None, typer.Option(help="guidance: what the answer is to be steered away from.", rich_help_panel=_PANEL)
]


_PARAMETERS = ("weight", "beta", "scale", "lambda", "plausibility")
_NUCLEUS = ("conservative_top_p", "conservative_set", "conservative_outside")


def parameters(*values: Any) -> dict[str, Any]:
    """The options above, in their order from `Weight` to `ConservativeOutside`, by the names that a user knows."""
    return dict(zip((*_PARAMETERS, *_NUCLEUS), values, strict=True))


@dataclass(frozen=True)
class _Kind:
    """A method of the command line: what it takes, how it is made, and its embedded models by name."""

    takes: tuple[str, ...]
    make: Callable[..., methods.MixingMethod]
    embedded: Mapping[str, str]


_TRIO = {"large": "large-base", "tuned": "small-tuned", "base": "small-base"}
_KINDS = {
    Name.up_scale: _Kind(("beta",), methods.UpScale, _TRIO),
    Name.down_scale: _Kind(
        ("beta",), methods.DownScale, {"small": "small-base", "tuned": "large-tuned", "base": "large-base"}
    ),
    Name.amplify: _Kind(("scale",), methods.Amplify, _TRIO),
    Name.interpolate: _Kind(
        ("lambda",),
        methods.Interpolate.between,
        {"large": "large-base", "polite": "small-tuned", "talkative": "small-talkative", "base": "small-base"},
    ),
    Name.contrast: _Kind(("beta", "plausibility"), methods.Contrast, {"expert": "large-base", "amateur": "small-base"}),
    Name.realign: _Kind(("lambda",), methods.Realign, {"reference": "large-base", "aligned": "large-tuned"}),
    Name.guidance: _Kind(("scale",), methods.Guidance, {"model": "large-base"}),
    Name.plain: _Kind((), methods.Plain, {"model": "large-base"}),
    Name.weighted: _Kind(("weight",), methods.Weighted, _TRIO),
}


def sources(given: Sequence[str] | None, large: str | None, tuned: str | None, base: str | None) -> dict[str, str]:
    """The models that are named, by name. Raises ValueError for one without a name, or named twice."""
    found = {name: model for name, model in (("large", large), ("tuned", tuned), ("base", base)) if model is not None}
    for each in given or ():
        name, equals, model = each.partition("=")
        if not (name and equals and model):
            raise ValueError(f"--model: expected NAME=MODEL, got {each!r}")
        if name in found:
            raise ValueError(f"--model: expected each name once, got {name!r} twice")
        found[name] = model
    return found


def folders(given: Sequence[str] | None, large: str | None, tuned: str | None, base: str | None) -> dict[str, Path]:
    """`models_read` of the models that are named. Raises ValueError as `sources`."""
    return models_read({option_of(name): model for name, model in sources(given, large, tuned, base).items()})


def option_of(name: str) -> str:
    """The option that names a model."""
    return f"--{name}" if name in ("large", "tuned", "base") else f"--model {name}=..."


def chosen(
    name: Name | None, named: Mapping[str, str], options: Mapping[str, Any], nucleus: Mapping[str, Any]
) -> tuple[methods.MixingMethod, dict[str, str]]:
    """The method, and the embedded models that it runs if none are named.

    Args:
        name: as asked for.
        named: the models that are named; those of an interpolation say which behaviours there are.
        options: weight, beta, scale, lambda and plausibility as given, None where not.
        nucleus: top_p, set and outside of conservative re-weighting, likewise.

    Raises:
        ValueError: options that do not belong to the method, or values that are none.
    """
    given = {option: value for option, value in options.items() if value is not None}
    around = {option: value for option, value in nucleus.items() if value is not None}
    if name is None:
        if "beta" in given and ("scale" in given or "top_p" in around):
            other = "scale" if "scale" in given else "conservative-top-p"
            raise ValueError(f"--beta: expected nothing beside {other}, which belongs to tuned + scale (large - base)")
        name = Name.amplify if "scale" in given or "top_p" in around else Name.up_scale
    kind = _KINDS[name]
    for option in given:
        if option not in kind.takes:
            takes = ", ".join(f"--{each}" for each in kind.takes) or "none of these"
            raise ValueError(f"--{option}: not an option of --method {name.value}, which takes {takes}")
    if around and "top_p" not in around:
        raise ValueError(f"--conservative-{next(iter(around))}: expected --conservative-top-p beside it")
    if name is Name.interpolate:
        method: methods.MixingMethod = _interpolation(named or kind.embedded, given.get("lambda"))
    elif name is Name.weighted:
        method = _weighted(given.get("weight"), named or kind.embedded)
    else:
        method = kind.make(**{"share" if option == "lambda" else option: value for option, value in given.items()})
    try:
        return methods.Conservative(**around, method=method) if around else method, dict(kind.embedded)
    except ValueError as error:
        part, _, wrong = str(error).partition(": ")
        raise ValueError(f"--conservative-{part.replace('_', '-')}: {wrong}") from error


def _weighted(given: Sequence[str] | None, models: Mapping[str, str]) -> methods.Weighted:
    """The method of `--weight`. Raises ValueError for weights that are none, or are not one for each model."""
    weights = _weights(given)
    if weights.keys() != models.keys():
        raise ValueError(f"--weight: expected one for each of {', '.join(models)}, got {', '.join(weights)}")
    with _of_option("--weight "):
        return methods.Weighted(weights)


@contextmanager
def _of_option(option: str) -> Iterator[None]:
    """Puts the option before a ValueError that begins with a model's name."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{option}{error}") from error


def _weights(given: Sequence[str] | None) -> dict[str, float]:
    """`--weight` by name. Raises ValueError for one without a name or a number, or named twice."""
    found: dict[str, float] = {}
    for each in given or ():
        name, _, number = each.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not (name and math.isfinite(value)):
            raise ValueError(f"--weight: expected NAME=NUMBER, got {each!r}")
        if name in found:
            raise ValueError(f"--weight: expected each name once, got {name!r} twice")
        found[name] = value
    if not found:
        raise ValueError("--weight: expected NAME=NUMBER for each model of --method weighted, got none")
    return found


def _interpolation(models: Mapping[str, str], share: float | None) -> methods.Interpolate:
    if "tuned" in models:
        raise ValueError("--tuned: expected --model NAME=MODEL for each behaviour of --method interpolate")
    behaviours = [name for name in models if name not in ("large", "base")]
    if len(behaviours) == 1:
        with _of_option("--lambda of "):
            return methods.Interpolate({behaviours[0]: 1.0 if share is None else share})
    if len(behaviours) != MOST:
        raise ValueError(f"--model: expected one or two behaviours beside large and base, got {len(behaviours)}")
    return methods.Interpolate.between(behaviours[0], behaviours[1], 0.5 if share is None else share)
