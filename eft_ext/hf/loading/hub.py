"""One model, tokenizer, configuration or adapter by hub id or folder: all that is read of a stranger is read here.

Nothing that comes with it runs unless `trust_remote_code` is True. It is passed on as True or False at every load:
where it is None transformers asks on standard input, and a pipe that says "y" is an answer.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.utils import find_adapter_config_file

from eft_ext._jsonl import read_object
from eft_ext.hf.inputs.token_ids import as_list, check_ids, warn_beyond
from eft_ext.hf.loading.memory import auto_class
from eft_ext.hf.members import Member

# What choosing a file on the hub takes; the rest belongs to the weights.
_HUB = ("revision", "token", "cache_dir", "local_files_only", "subfolder")
_WORDS = ("*token*", "vocab*", "*.model")  # files of a tokenizer
_LONGEST = 1000  # characters of an error
# Keys of an adapter's configuration that are not about its own weights.
_IMPORTS = {
    "megatron_config": "has a module of its choice imported",
    "adapters": "loads further adapters, as X-LoRA does",
    "tokenizer_kwargs": "loads a tokenizer in its own way",
}
TRUST = "pass trust_remote_code=True (on the command line --trust-remote-code) to run it"


def source_of(name: str, source: Any) -> str:
    """A hub id or folder as text. Raises ValueError for what looks like a folder and is none."""
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(f"{name}: expected a hub id or a folder, got {type(source).__name__}")
    text = os.path.expanduser(os.fspath(source))
    if (os.path.isabs(text) or text.startswith(".") or text.count("/") > 1) and not os.path.isdir(text):
        raise ValueError(
            f"{name}: {'expected a folder, got the file' if os.path.exists(text) else 'no such folder:'} {text}"
        )
    return text


def hub_options(options: dict[str, Any]) -> dict[str, Any]:
    """Those of `options` that choose a file, and whether its code may run."""
    return {**file_options(options), "trust_remote_code": _trusted(options)}


def file_options(options: dict[str, Any]) -> dict[str, Any]:
    """Those of `options` that choose a file with no code in it."""
    return {key: options[key] for key in _HUB if key in options}


def load_config(name: str, source: str, options: dict[str, Any]) -> Any:
    """A model's configuration. Raises ValueError naming the argument, whatever is wrong with it."""
    try:
        return AutoConfig.from_pretrained(source, **hub_options(options))
    except Exception as error:  # whatever a broken file or a remote configuration raises
        raise ValueError(f"{name}: cannot read {source!r}: {why(error)}") from error


def load_model(name: str, source: str, options: dict[str, Any]) -> Any:
    """A causal language model in eval mode; an adapter's folder gives its base with the adapter.

    Args:
        name: the argument, for messages.
        options: as for transformers' from_pretrained.

    Raises:
        ValueError: it cannot be loaded, its code would have to run, its weights have other sizes than its
            configuration says, or a special token is none.
    """
    kind: Any = AutoModelForCausalLM  # which loads an adapter with its base by itself
    if adapter_config(source, options) is None:
        kind = auto_class(load_config(name, source, options))
    settings = Path(source) / "generation_config.json"
    if settings.is_file():
        # transformers passes over one that it cannot read, and over its end tokens
        check_ids(str(settings), read_object(settings))
    # Sizes are compared here: transformers points to a report that it logs where nobody may look.
    asked = {"ignore_mismatched_sizes": True, **options, "output_loading_info": True}
    try:
        model, found = kind.from_pretrained(source, **{**asked, "trust_remote_code": _trusted(options)})
    except Exception as error:
        raise ValueError(f"{name}: cannot load {source!r}: {why(error)}") from error
    if found["mismatched_keys"] and not options.get("ignore_mismatched_sizes"):
        weight, stored, wanted = min(found["mismatched_keys"])
        raise ValueError(
            f"{name}: cannot load {source!r}: {weight} is {list(stored)} in the file and {list(wanted)} by config.json"
        )
    if missing := sorted(found["missing_keys"]):
        warnings.warn(
            f"{name}: {len(missing)} of the weights are not in {source!r} and are drawn at random, first {missing[0]}",
            stacklevel=4,
        )
    files = (str(file) for file in (settings, Path(source) / "config.json") if file.is_file())
    where = next(files, f"the generation settings of {source!r}")
    ids = check_ids(where, vars(getattr(model, "generation_config", None) or GenerationConfig()))
    warn_beyond(name, where, ids, Member(name, model).vocab_size)
    return model.eval()


def load_tokenizer(name: str, source: str, options: dict[str, Any]) -> Any:
    """The tokenizer that comes with a model, None if none does (as with most adapters)."""
    if os.path.isdir(source) and not any(f for pattern in _WORDS for f in Path(source).glob(pattern)):
        return None
    from transformers import AutoTokenizer  # not above: its module may be the one that has ours imported

    try:
        return AutoTokenizer.from_pretrained(source, **hub_options(options))
    except Exception as error:
        if isinstance(error, OSError) and not os.path.isdir(source):
            return None
        raise ValueError(f"{name}: cannot load the tokenizer of {source!r}: {why(error)}") from error


def load_ends(source: str, options: dict[str, Any]) -> list[int]:
    """The ids that end a model's texts by its generation settings; none where it brings no settings."""
    try:
        return as_list(GenerationConfig.from_pretrained(source, **file_options(options)).eos_token_id)
    except OSError:
        return []


def adapter_config(source: str, options: dict[str, Any]) -> dict[str, Any] | None:
    """A folder's or hub id's adapter_config.json, None where there is none.

    Raises:
        ValueError: it is no JSON object, or would have PEFT import or load more than its weights.
    """
    try:
        path = find_adapter_config_file(source, **file_options(options))
    except OSError:
        path = None  # no such model: said when it is loaded
    if path is None:
        return None
    found = read_object(path)
    asks = next((key for key in _IMPORTS if found.get(key)), None)
    if asks is not None and not _trusted(options):
        raise ValueError(f"{path}, key {asks!r}: {_IMPORTS[asks]}; {TRUST}")
    return found


def why(error: Exception) -> str:
    """An exception as one line; some list every tensor of a model."""
    said = " ".join(str(error).split())
    if "weights_only" in said:  # torch advises to run it all the same
        return "its weights are a pickle of more than tensors, which would run code"
    if "trust_remote_code" in said:
        return f"it comes with code of its own, which does not run by itself; {TRUST}"
    return (said if len(said) <= _LONGEST else said[:_LONGEST] + " ...") or type(error).__name__


def _trusted(options: dict[str, Any]) -> bool:
    return options.get("trust_remote_code") is True
