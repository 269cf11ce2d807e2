"""The inner models: each as vLLM makes it alone, with its own configuration."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from eft_ext.serving.vllm import names


def build(vllm_config: Any, name: str, config: Any, prefix: str) -> Any:
    """Makes one of the models, without weights.

    Args:
        vllm_config: the engine's.
        name: the model's name in the method.
        config: its configuration.
        prefix: of its layers' names, by which the engine tells the models' key-value caches apart.
    """
    config = copy.deepcopy(config)
    # In the hash of the configuration: compiled code of two models of one shape must not lie under one name.
    config.emulated_role = name
    with names.set_model_tag(f"emulated_{name}"):
        return names.initialize_model(vllm_config=_own(vllm_config, config), prefix=prefix)


def _own(vllm_config: Any, config: Any) -> Any:
    """The engine's configuration with this model's own model, sliding window and quantisation in it."""
    own = vllm_config.with_hf_config(config)
    text = config.get_text_config()
    own.model_config.hf_text_config = text
    # A layer that is told no window takes this one, which otherwise were the whole's: none.
    window = getattr(text, "sliding_window", None)
    if own.model_config.disable_sliding_window or not getattr(text, "use_sliding_window", True):
        window = None
    cache = copy.copy(own.cache_config)
    cache.sliding_window = window
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None:
        kind = quantised.get("quant_method") if isinstance(quantised, dict) else quantised.quant_method
        own.model_config.quantization = kind
        quant = names.VllmConfig.get_quantization_config(own.model_config, own.load_config)
    else:  # the command line's, for all models, if any
        quant = own.quant_config if vllm_config.model_config.quantization is not None else None
    return replace(own, cache_config=cache, quant_config=quant)
