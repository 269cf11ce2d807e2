"""Loading the models of a method and their tokenizers by hub id or folder."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from eft_ext.config import EmulatedConfig
from eft_ext.hf.adapters import changes_base
from eft_ext.hf.inputs.special_tokens import told
from eft_ext.hf.inputs.words import Asked, Words
from eft_ext.hf.loading.adapter import with_adapter
from eft_ext.hf.loading.devices import check_devices
from eft_ext.hf.loading.hub import adapter_config, hub_options, load_config, load_model, source_of
from eft_ext.hf.loading.memory import Footprint, available, footprint, readable
from eft_ext.hf.loading.tokenizers import find_words
from eft_ext.hf.members import by_model
from eft_ext.methods import MixingMethod


def load(
    method: MixingMethod,
    given: Mapping[str, Any],
    *,
    tokenizer: Any = None,
    check_tokenizers: bool = True,
    special_tokens: Asked = None,
    packed: bool = False,
    quiet: bool = False,
    **options: Any,
) -> tuple[dict[str, Any], Words]:
    """Load the method's models and their tokenizers; `given` has their hub ids or folders, the rest is as for
    `EmulatedModel.from_pretrained`. What is `packed` fits together, its `Words` are given as the tokenizer, and an
    adapter's base has another name than it had.

    Returns:
        The models by name, in eval mode, and the tokenizers. A model that an adapter was put on is left out, since the
        adapter's PEFT model brings it. What is given under two names with the same options is loaded once.
    """
    names, under = method.models, method.adapter_base
    each = options_of_models(method, options)
    for name, chosen in each.items():
        _check_dtype(chosen.get("dtype"))
        check_devices(name, chosen.get("device_map"))
    sources, adapters = find_models(method, given, each)
    words = tokenizer
    if not packed:
        words = find_words(method, sources, each, tokenizer, compare=check_tokenizers, asked=special_tokens)
    if words.found and not quiet:
        print(told(words.found), file=sys.stderr)
    apart = {name for name, adapter in adapters.items() if changes_base(adapter) is not None}  # with bases of their own
    _say_memory({n: sources[str(under) if n in apart else n] for n in names}, each, quiet)

    models: dict[str, Any] = {}
    for name in names:
        alike = (n for n in models if (sources[n], each[n]) == (sources[name], each[name]))
        same = next((n for n in alike if not (adapters and under in (n, name))), None)  # an adapter changes its base
        if name not in adapters:
            models[name] = models[same] if same is not None else load_model(name, sources[name], each[name])
    for name, adapter in adapters.items():
        base = load_model(name, sources[str(under)], each[str(under)]) if name in apart else models[str(under)]
        made_for = None if packed else adapter.get("base_model_name_or_path")
        models[name] = with_adapter(name, str(under), base, sources, made_for, each[name])
        if name not in apart:
            models[str(under)] = models[name]
    shared = adapters.keys() - apart
    return {name: models[name] for name in names if not (shared and name == under)}, words


def options_of_models(method: MixingMethod, options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each model's options, of values for all models and dictionaries by the models' names."""
    return {name: _for_model(name, method, options) for name in method.models}


def find_models(
    method: MixingMethod, given: Mapping[str, Any], each: dict[str, dict[str, Any]]
) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Hub ids or folders of the method's models in its order, and the configurations of those that are adapters.

    Args:
        given: hub ids or folders by name; the base of an adapter that names it may be left out.
        each: options of each model.

    Raises:
        ValueError: a model that is missing, not the method's, or none; an adapter over an adapter.
    """
    names, under = method.models, method.adapter_base
    sources = {
        name: source_of(name, source)
        for name, source in by_model(method, given, mappings=True).items()
        if source is not None
    }
    for name in sources:
        if name not in names:
            raise ValueError(f"{name}: not a model of {method!r}, which has {', '.join(names)}")
    missing = next((name for name in names if name not in sources and name != under), None)
    if missing is not None:
        raise ValueError(f"{missing}: expected a hub id or a folder, got None")
    sitting = [name for name in names if under is not None and name not in (names[0], under)]
    adapters = {name: found for name in sitting if (found := adapter_config(sources[name], each[name])) is not None}
    for name in names:
        if name in sources and name not in adapters and name != under:
            _check_config(name, sources[name], each[name])
    if under is not None:
        if under not in sources:
            named = [a["base_model_name_or_path"] for a in adapters.values() if a.get("base_model_name_or_path")]
            if not named:
                raise ValueError(
                    f"{under}: expected a model, got None (only an adapter as `{sitting[0]}` can name its {under})"
                )
            sources[under] = source_of(under, named[0])
        if adapters and adapter_config(sources[under], each[under]) is not None:
            raise ValueError(
                f"{under}: expected a whole model under the adapter of {next(iter(adapters))}, got another adapter, "
                f"{sources[under]!r}; merge it into its base"
            )
        _check_config(under, sources[under], each[under])
    return {name: sources[name] for name in names}, adapters


def _for_model(name: str, method: MixingMethod, options: dict[str, Any]) -> dict[str, Any]:
    """The options of one model. A dictionary is per model if all its keys are models' names."""
    chosen = {}
    for key, value in options.items():
        if isinstance(value, dict) and value and set(value) <= {*method.models, *method.groups}:
            value = by_model(method, value).get(name)
        if value is not None:
            chosen[key] = value
    return chosen


def _check_dtype(dtype: Any) -> None:
    known = isinstance(getattr(torch, dtype, None) if isinstance(dtype, str) else dtype, torch.dtype)
    if dtype not in (None, "auto") and not known:
        raise ValueError(f"dtype: expected one of torch's, such as 'bfloat16', or 'auto', got {dtype!r}")


def _check_config(name: str, source: str, options: dict[str, Any]) -> None:
    """Raise ValueError where there is no model, before minutes are spent on loading another one."""
    try:
        config = load_config(name, source, options)
    except ValueError:
        if adapter_config(source, options) is None:  # transformers loads an adapter with its base by itself
            raise
        return
    if config.model_type == EmulatedConfig.model_type:
        raise ValueError(f"{name}: expected one model, got {source!r}, a checkpoint of several")
    if config.is_encoder_decoder:
        raise ValueError(
            f"{name}: expected a decoder-only model, got {source!r}, which is an encoder-decoder ({config.model_type})"
        )


def _say_memory(sources: dict[str, str], each: dict[str, dict[str, Any]], quiet: bool) -> None:
    known = [p for name, source in sources.items() if (p := _footprint(name, source, each[name])) is not None]
    total = sum(p.bytes for p in known)
    free = available(next(iter(each.values())).get("device_map"))
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
    about: dict[str, Any] = {key: options.get(key) for key in ("dtype", "quantization_config")}
    try:
        return footprint(name, source, **about, **hub_options(options))
    except Exception:  # a model of remote code that does not build on the meta device, say
        return None
