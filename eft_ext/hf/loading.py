"""Loading three models and their tokenizer by hub id or folder."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
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
    """Load large, tuned, base and a tokenizer; the arguments are those of `EmulatedModel.from_pretrained`.

    Returns:
        (large, tuned, base, tokenizer), in eval mode; base is None where tuned brings it.
    """
    each = {name: _for_model(name, options) for name in NAMES}
    for chosen in each.values():
        _check_dtype(chosen.get("dtype"))
    sources = {"large": _source("large", large), "tuned": _source("tuned", tuned)}
    if base is not None:
        sources["base"] = _source("base", base)
    _check_config("large", sources["large"], each["large"])
    adapter = _adapter_config(sources["tuned"], each["tuned"])
    if adapter is None:
        _check_config("tuned", sources["tuned"], each["tuned"])
    if base is None:
        if adapter is None or not adapter.get("base_model_name_or_path"):
            raise ValueError("base: expected a model, got None (only an adapter as `tuned` can name its base)")
        sources["base"] = _source("base", adapter["base_model_name_or_path"])
    _check_config("base", sources["base"], each["base"])
    words = _tokenizers(sources, each, tokenizer, check_tokenizers)
    _say_memory(sources, each, quiet)  # an adapter is about a hundredth of its base

    models = {name: _model(name, sources[name], each[name]) for name in NAMES if name != "tuned" or adapter is None}
    if adapter is None:
        return models["large"], models["tuned"], models["base"], words
    return models["large"], _with_adapter(models["base"], sources, adapter, each["tuned"]), None, words


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


def _source(name: str, source: Any) -> str:
    """A hub id or folder as text. Raises ValueError for what looks like a folder and is not there."""
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(f"{name}: expected a hub id or a folder, got {type(source).__name__}")
    text = os.path.expanduser(os.fspath(source))
    if (os.path.isabs(text) or text.startswith(".") or text.count("/") > 1) and not os.path.isdir(text):
        raise ValueError(f"{name}: no such folder: {text}")
    return text


def _adapter_config(source: str, options: dict[str, Any]) -> dict[str, Any] | None:
    hub = {key: value for key, value in _hub(options).items() if key != "trust_remote_code"}
    try:
        path = find_adapter_config_file(source, **hub)
    except OSError:
        path = None  # no such model: said when it is loaded
    if path is None:
        return None
    with open(path, encoding="utf-8") as stream:
        return dict(json.load(stream))


def _check_config(name: str, source: str, options: dict[str, Any]) -> None:
    """Raise ValueError where there is no model, before minutes are spent on loading another one."""
    try:
        AutoConfig.from_pretrained(source, **_hub(options))
    except Exception as error:  # whatever a broken file or a remote configuration raises
        if _adapter_config(source, options) is None:  # transformers loads an adapter with its base by itself
            raise ValueError(f"{name}: cannot read {source!r}: {_line(error)}") from error


def _model(name: str, source: str, options: dict[str, Any]) -> Any:
    try:
        return AutoModelForCausalLM.from_pretrained(source, **options).eval()
    except Exception as error:  # whatever a broken file or a remote configuration raises
        raise ValueError(f"{name}: cannot load {source!r}: {_line(error)}") from error


def _with_adapter(base: Any, sources: dict[str, str], adapter: dict[str, Any], options: dict[str, Any]) -> Any:
    source, base_source = sources["tuned"], sources["base"]
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


def _say_memory(sources: dict[str, str], each: dict[str, dict[str, Any]], quiet: bool) -> None:
    known = [p for name, source in sources.items() if (p := _footprint(name, source, each[name])) is not None]
    total = sum(p.bytes for p in known)
    free = available(each["large"].get("device_map"))
    if not quiet and known:
        of = "" if free is None else f" of {readable(free)} available"
        print(f"loading weights: {', '.join(map(str, known))}; {readable(total)} in all{of}", file=sys.stderr)
    if free is not None and total > free:
        warnings.warn(
            f"the weights need {readable(total)} and {readable(free)} are available: "
            "choose a smaller dtype, a quantization_config or another device_map",
            stacklevel=4,
        )


def _footprint(name: str, source: str, options: dict[str, Any]) -> Footprint | None:
    """None where it cannot be told, which must not keep a model from being loaded."""
    about = {key: options.get(key) for key in ("dtype", "quantization_config")}
    try:
        return footprint(name, source, **about, **_hub(options))
    except Exception:  # a model of remote code that does not build on the meta device, say
        return None


def _line(error: Exception) -> str:
    """An exception as one line."""
    return " ".join(str(error).split())[:300]
