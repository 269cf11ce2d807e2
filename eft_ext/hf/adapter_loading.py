"""Loading an adapter of PEFT onto its base, by hub id or folder."""

from __future__ import annotations

import json
import os
import re
import warnings
from typing import Any

from transformers.utils import find_adapter_config_file

from eft_ext._extras import needs
from eft_ext.hf.adapters import adapter_name

# What choosing a file on the hub takes; the rest belongs to the weights.
_HUB = ("revision", "trust_remote_code", "token", "cache_dir", "local_files_only", "subfolder")
_LONGEST = 1000  # characters of an error
_OTHER_SIZE = re.compile(  # of an embedding, as torch says it: the file's, then the model's
    r"size mismatch for \S*(?:embed|wte|lm_head)\S*: .*?\[(\d+), (\d+)\].*?\[(\d+), \2\]", re.DOTALL
)


def hub_options(options: dict[str, Any]) -> dict[str, Any]:
    """Those of `options` that choose a file."""
    return {key: options[key] for key in _HUB if key in options}


def adapter_config(source: str, options: dict[str, Any]) -> dict[str, Any] | None:
    """A folder's or hub id's adapter_config.json, None where there is none."""
    hub = {key: value for key, value in hub_options(options).items() if key != "trust_remote_code"}
    try:
        path = find_adapter_config_file(source, **hub)
    except OSError:
        path = None  # no such model: said when it is loaded
    if path is None:
        return None
    with open(path, encoding="utf-8") as stream:
        return dict(json.load(stream))


def with_adapter(
    name: str,
    under: str,
    base: Any,
    sources: dict[str, str],
    adapter: dict[str, Any],
    options: dict[str, Any],
) -> Any:
    """The PEFT model over `base`, the model called `under`, with one more adapter of this name."""
    source, base_source = sources[name], sources[under]
    with needs(f"{name}: the adapter {source!r}", "peft"):
        from peft import PeftModel
    named = adapter.get("base_model_name_or_path")
    if named and os.path.basename(str(named)) != os.path.basename(os.path.normpath(base_source)):
        warnings.warn(
            f"{name}: the adapter was made for {named!r} and is put on {under}, {base_source!r}", stacklevel=4
        )
    hub = {key: value for key, value in hub_options(options).items() if key != "trust_remote_code"}
    try:
        if isinstance(base, PeftModel):
            base.load_adapter(source, adapter_name(name), **hub)
        else:
            base = PeftModel.from_pretrained(base, source, adapter_name(name), **hub)
    except Exception as error:
        why = _other_vocabulary(str(error), under) or one_line(error)
        raise ValueError(f"{name}: cannot put the adapter {source!r} on {under}: {why}") from error
    return base.eval()


def _other_vocabulary(said: str, under: str) -> str | None:
    """Tells what to do for an adapter whose base had been resized; None where torch complains of something else."""
    found = _OTHER_SIZE.search(said)
    if found is None:
        return None
    theirs, _, ours = found.groups()
    return (
        f"it was trained with {theirs} tokens, and {under} has {ours}: give a {under} that was saved after "
        f"resize_token_embeddings({theirs})"
    )


def one_line(error: Exception) -> str:
    """An exception as one line; some list every tensor of a model."""
    said = " ".join(str(error).split())
    return said if len(said) <= _LONGEST else said[:_LONGEST] + " ..."
