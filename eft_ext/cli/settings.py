"""The settings that an answer is generated with: the command line's own, and none that come with a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from eft_ext.hf import EmulatedModel

# Of a model's generation_config: its special tokens.
_KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version")
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
    unused = _set_aside(model.generation_config)
    if not quiet:
        source = f"{model.method.models[0]}'s configuration"
        listed = ", ".join(f"{name} {_short(value)}" for name, value in unused.items())
        typer.secho(_said(asked) + (f"; not used: {listed} of {source}" if unused else ""), dim=True, err=True)
    return {"options": {**_OFF, **asked}, "set_aside": unused}


def _set_aside(config: Any) -> dict[str, Any]:
    """Gives everything but what is kept its default; returns the old values as JSON has them."""
    from transformers import GenerationConfig

    default = vars(GenerationConfig())
    own = {name: value for name, value in vars(config).items() if not (name in _KEPT or name.startswith("_"))}
    # transformers writes False where nothing was said, and True of the cache.
    said = {name: value for name, value in own.items() if value is not (name == "use_cache")}
    unused = {name: value for name, value in said.items() if value is not None and value != default.get(name)}
    for name in unused:
        setattr(config, name, default.get(name))
    found: dict[str, Any] = json.loads(json.dumps(unused, default=str))
    return found


def _said(asked: Mapping[str, Any]) -> str:
    most = f"at most {asked['max_new_tokens']} token{'s' * (asked['max_new_tokens'] != 1)}"
    if not asked["do_sample"]:
        return f"greedy, {most}"
    parts = [f"temperature {asked['temperature']:g}"]
    parts += [f"{name} {asked[name]:g}" for name in _FILTERS if asked.get(name, _OFF[name]) != _OFF[name]]
    if asked["seed"] is not None:
        parts.append(f"seed {asked['seed']}")
    return ", ".join([*parts, most])


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
