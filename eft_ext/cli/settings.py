"""The settings that an answer is generated with: the command line's own, and none that come with a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from eft_ext.hf import EmulatedModel

_OFF = {"do_sample": False, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": None}
_FILTERS = ("top_p", "top_k", "min_p")


def settle(model: EmulatedModel, asked: Mapping[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Sets aside what comes with the model, and says in one line on stderr what is used instead.

    Args:
        model: its first model's generation_config keeps special tokens only.
        asked: as `options.sampling` returns it.
        quiet: say nothing, since the returned is printed.

    Returns:
        options: the settings in use, all of them. set_aside: those of the model, by name.
    """
    from eft_ext.hf.loading.generation_defaults import listed, set_aside

    unused = set_aside(model.generation_config)
    if not quiet:
        source = f"{model.method.models[0]}'s configuration"
        typer.secho(_said(asked) + (f"; not used: {listed(unused)} of {source}" if unused else ""), dim=True, err=True)
    return {"options": {**_OFF, **asked}, "set_aside": unused}


def _said(asked: Mapping[str, Any]) -> str:
    most = f"at most {asked['max_new_tokens']} token{'s' * (asked['max_new_tokens'] != 1)}"
    if not asked["do_sample"]:
        return f"greedy, {most}"
    parts = [f"temperature {asked['temperature']:g}"]
    parts += [f"{name} {asked[name]:g}" for name in _FILTERS if asked.get(name, _OFF[name]) != _OFF[name]]
    if asked["seed"] is not None:
        parts.append(f"seed {asked['seed']}")
    return ", ".join([*parts, most])
