"""`eft info`: the models in a checkpoint, and how they are mixed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from eft_ext._json import dumps
from eft_ext._text import aligned
from eft_ext.cli import loading
from eft_ext.cli import options as o

NAME = "info"


def run(
    checkpoint: Annotated[str, typer.Argument(help="Folder or hub id of a checkpoint of eft pack.")],
    as_json: o.Json = False,
) -> None:
    """Say what is in a checkpoint: the method, and each model's kind, size and place.

    Nothing is loaded but configurations.

    Examples:

        eft info trio

        eft info trio --json
    """
    loading.hush(bars=False)
    show(checkpoint, as_json=as_json)


def show(checkpoint: str | os.PathLike[str], *, as_json: bool) -> None:
    """Prints what `describe` finds."""
    found = describe(checkpoint)
    if as_json:
        typer.echo(dumps(found, indent=2))
        return
    facts = ("checkpoint", "method", "formula", "tokens", "ends", "chat_template")
    rows = [(name.replace("_", " "), str(found[name])) for name in facts]
    typer.echo("\n".join(aligned(rows)) + "\n")
    if found["special_tokens"]:
        from eft_ext.hf.inputs.special_tokens import SpecialToken, told

        typer.echo(told([SpecialToken(**each) for each in found["special_tokens"]]) + "\n")
    table = [("model", "kind", "parameters", "weights", "where")]
    for name, model in found["models"].items():
        kind = model["kind"] + (" (an adapter)" if model["adapter"] else "")
        known = ("", "") if model["bytes"] is None else (f"{model['parameters']:,}", model["size"])
        table.append((name, kind, *known, model["where"]))
    typer.echo("\n".join(aligned(table)))  # paths are copied from the last column


def describe(checkpoint: str | os.PathLike[str]) -> dict[str, Any]:
    """A checkpoint's method and models.

    Raises:
        ValueError: no checkpoint, or one that has lost a model.
    """
    from eft_ext.hf.checkpoint.load import load_words
    from eft_ext.hf.checkpoint.read import is_checkpoint, read
    from eft_ext.hf.inputs.token_ids import as_list
    from eft_ext.hf.loading.hub import source_of

    source = source_of("checkpoint", checkpoint)
    if not is_checkpoint(source, {}):
        raise ValueError(f"checkpoint: expected one of eft pack, whose model_type is emulated, got {source!r}")
    found = read(source, {})
    method, settings = found.config.mixing_method, found.generation_config
    words = load_words(found, method)
    template = getattr(words.tokenizer, "chat_template", None)
    return {
        "checkpoint": source,
        "method": repr(method),
        "formula": method.formula,
        "tokens": found.config.vocab_size,
        "ends": as_list(getattr(settings, "eos_token_id", None)),
        "chat_template": "yes" if template is not None else "none",
        "special_tokens": [{"id": t.id, "tokens": dict(t.tokens), "policy": t.policy} for t in words.found],
        "models": {name: _model(found, name) for name in method.models},
    }


def _model(found: Any, name: str) -> dict[str, Any]:
    """One model's kind, size and place; of one on the hub the size is not known."""
    from eft_ext.hf.loading.memory import footprint, readable

    place, config = found.places[name], getattr(found.config, name)
    local = os.path.isdir(place.source)
    size = footprint(name, place.source) if local and any(Path(place.source).glob("*.safetensors")) else None
    where = os.path.realpath(place.source) if local and Path(place.source).is_symlink() else place.source
    if not local and place.options.get("revision"):
        where += f" at {place.options['revision']}"
    return {
        "kind": getattr(config, "model_type", None) or config["model_type"],
        "adapter": place.adapter,
        "parameters": None if size is None else size.parameters,
        "bytes": None if size is None else size.bytes,
        "size": None if size is None else readable(size.bytes),
        "where": where,
    }
