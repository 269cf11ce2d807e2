"""Loading three models and their tokenizer by hub id or folder."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import find_adapter_config_file

from eft_ext.hf.members import NAMES
from eft_ext.hf.memory import Footprint, available, footprint, readable
from eft_ext.hf.vocabulary import compare_tokenizers

_WORDS = ("*token*", "vocab*", "*.model")  # files of a tokenizer
# What choosing a file on the hub takes; the rest belongs to the weights.
_HUB = ("revision", "trust_remote_code", "token", "cache_dir", "local_files_only", "subfolder")


def load(
    large: str,
    tuned: str,
    base: str | None = None,
    *,
    tokenizer: Any = None,
    check_tokenizers: bool = True,
    quiet: bool = False,
    **options: Any,
) -> tuple[Any, Any, Any, Any]:
    """Load large, tuned, base and a tokenizer.

    Args:
        large, tuned, base: hub ids or local folders. `tuned` may hold an adapter (adapter_config.json) of
            `base`: then base is loaded once and shared, and may be left out if the adapter names it.
        tokenizer: a tokenizer, or where to load it; the large model's own otherwise. It takes over the tuned
            model's chat template if it has none.
        check_tokenizers: compare the models' tokenizers token by token.
        quiet: do not say on stderr how much memory the weights will need.
        options: dtype, device_map, revision, trust_remote_code, quantization_config, attn_implementation,
            token, subfolder, ... as for transformers' from_pretrained: one value for all three models, or a
            dictionary with the keys large, tuned, base (those left out keep transformers' default).

    Returns:
        (large, tuned, base, tokenizer), in eval mode; base is None where tuned brings it.

    Raises:
        ValueError: a model that cannot be found or read, or tokenizers that differ.
    """
    each = {name: _for_model(name, options) for name in NAMES}
    for chosen in each.values():
        _check_dtype(chosen.get("dtype"))
    adapter = _adapter_config("tuned", tuned, each["tuned"])
    if base is None:
        if adapter is None or not adapter.get("base_model_name_or_path"):
            raise ValueError("base: expected a model, got None (only an adapter as `tuned` can name its base)")
        base = str(adapter["base_model_name_or_path"])
    sources = {"large": large, "tuned": tuned, "base": base}
    for name, source in sources.items():
        _check_source(name, source)
    words = _tokenizers(sources, each, tokenizer, check_tokenizers)
    _say_memory(sources, each, adapter is not None, quiet)

    models = {name: _model(name, sources[name], each[name]) for name in NAMES if name != "tuned" or adapter is None}
    if adapter is None:
        return models["large"], models["tuned"], models["base"], words
    return models["large"], _with_adapter(models["base"], tuned, base, adapter, each["tuned"]), None, words


def _for_model(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of one model. A dictionary is per model if all its keys are models' names."""
    chosen = {}
    for key, value in options.items():
        if isinstance(value, dict) and value and set(value) <= set(NAMES):
            value = value.get(name)
        if value is not None:
            chosen[key] = value
    return chosen


def _check_dtype(dtype: Any) -> None:
    known = isinstance(getattr(torch, dtype, None) if isinstance(dtype, str) else dtype, torch.dtype)
    if dtype not in (None, "auto") and not known:
        raise ValueError(f"dtype: expected one of torch's, such as 'bfloat16', or 'auto', got {dtype!r}")


def _hub(options: dict[str, Any]) -> dict[str, Any]:
    return {key: options[key] for key in _HUB if key in options}


def _check_source(name: str, source: Any) -> None:
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(f"{name}: expected a hub id or a folder, got {type(source).__name__}")
    text = os.fspath(source)
    if (os.path.isabs(text) or text.startswith((".", "~")) or text.count("/") > 1) and not os.path.isdir(text):
        raise ValueError(f"{name}: no such folder: {text}")


def _adapter_config(name: str, source: Any, options: dict[str, Any]) -> dict[str, Any] | None:
    _check_source(name, source)
    hub = {key: value for key, value in _hub(options).items() if key != "trust_remote_code"}
    try:
        path = find_adapter_config_file(os.fspath(source), **hub)
    except OSError:
        path = None  # no such model: said when it is loaded
    if path is None:
        return None
    with open(path, encoding="utf-8") as stream:
        return dict(json.load(stream))


def _model(name: str, source: str, options: dict[str, Any]) -> Any:
    try:
        return AutoModelForCausalLM.from_pretrained(source, **options).eval()
    except Exception as error:  # whatever a broken file or a remote configuration raises
        raise ValueError(f"{name}: cannot load {source!r}: {_line(error)}") from error


def _with_adapter(base: Any, source: str, base_source: str, adapter: dict[str, Any], options: dict[str, Any]) -> Any:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ValueError(f"tuned: {source!r} holds an adapter, which needs peft: pip install peft") from error
    named = adapter.get("base_model_name_or_path")
    if named and os.path.basename(str(named)) != os.path.basename(os.path.normpath(base_source)):
        warnings.warn(f"tuned: the adapter was made for {named!r} and is put on base, {base_source!r}", stacklevel=4)
    hub = {key: value for key, value in _hub(options).items() if key != "trust_remote_code"}
    try:
        return PeftModel.from_pretrained(base, source, **hub).eval()
    except Exception as error:
        raise ValueError(f"tuned: cannot put the adapter {source!r} on base: {_line(error)}") from error


def _tokenizers(sources: dict[str, str], each: dict[str, dict[str, Any]], given: Any, compare: bool) -> Any:
    """The tokenizer to use, compared with every other one that comes with a model."""
    found = {name: _tokenizer(name, source, _hub(each[name])) for name, source in sources.items()}
    if isinstance(given, (str, os.PathLike)):
        first, chosen = "tokenizer", AutoTokenizer.from_pretrained(given, **_hub(each["large"]))
    elif given is not None:
        first, chosen = "tokenizer", given
    else:
        first, chosen = next(((n, t) for n, t in found.items() if t is not None), ("", None))
    if chosen is None:
        warnings.warn("none of the models brings a tokenizer: only token ids can be generated from", stacklevel=4)
        return None
    for name, other in found.items():
        if compare and other is not None and name != first:
            compare_tokenizers(first, chosen, name, other)
    if getattr(chosen, "chat_template", None) is None and found["tuned"] is not None:
        chosen.chat_template = found["tuned"].chat_template
    return chosen


def _tokenizer(name: str, source: str, options: dict[str, Any]) -> Any:
    """The tokenizer that comes with a model, None if none does (as with most adapters)."""
    if os.path.isdir(source) and not any(f for pattern in _WORDS for f in Path(source).glob(pattern)):
        return None
    try:
        return AutoTokenizer.from_pretrained(source, **options)
    except Exception as error:
        if isinstance(error, OSError) and not os.path.isdir(source):
            return None
        raise ValueError(f"{name}: cannot load the tokenizer of {source!r}: {_line(error)}") from error


def _say_memory(sources: dict[str, str], each: dict[str, dict[str, Any]], adapter: bool, quiet: bool) -> None:
    prints: list[Footprint] = []
    for name, source in sources.items():
        options = each[name]
        if name == "tuned" and adapter:
            continue  # about a hundredth of base
        try:
            prints.append(
                footprint(
                    name,
                    source,
                    dtype=options.get("dtype"),
                    quantization_config=options.get("quantization_config"),
                    **_hub(options),
                )
            )
        except Exception as error:  # whatever a broken file or a remote configuration raises
            raise ValueError(f"{name}: cannot read {source!r}: {_line(error)}") from error
    total = sum(p.bytes for p in prints)
    free = available(each["large"].get("device_map"))
    if not quiet:
        of = "" if free is None else f" of {readable(free)} available"
        print(f"loading weights: {', '.join(map(str, prints))}; {readable(total)} in all{of}", file=sys.stderr)
    if free is not None and total > free:
        warnings.warn(
            f"the weights need {readable(total)} and {readable(free)} are available: "
            "choose a smaller dtype, a quantization_config or another device_map",
            stacklevel=4,
        )


def _line(error: Exception) -> str:
    """An exception as one line."""
    return " ".join(str(error).split())[:300]
