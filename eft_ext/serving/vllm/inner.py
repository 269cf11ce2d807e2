"""The inner models: each as vLLM makes it alone, with its own configuration."""

from __future__ import annotations

import copy
from dataclasses import replace
from hashlib import sha256
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
    # In the hash of the configuration: compiled code of two models of one shape, or of another checkpoint's, must not
    # lie under one name.
    whole = vllm_config.model_config.hf_config.to_json_string()
    config.emulated_role = f"{name} {sha256(whole.encode()).hexdigest()}"
    with names.set_model_tag(f"emulated_{name}"):
        return names.initialize_model(vllm_config=_own(vllm_config, prefix, config), prefix=prefix)


def _own(vllm_config: Any, prefix: str, config: Any) -> Any:
    """The engine's configuration with this model's own model, sliding window and quantisation in it."""
    own = vllm_config.with_hf_config(config)
    own.model_config.hf_text_config = config.get_text_config()
    own.model_config.model_arch_config = own.model_config.get_model_arch_config()  # which reads that
    cache = copy.copy(own.cache_config)
    cache.sliding_window = _window(own.model_config.hf_text_config)
    if own.model_config.model_arch_config.quantization_config is not None:
        own.model_config.quantization = None
        own.model_config._verify_quantization()  # finds the kind of its checkpoint
        quant = names.VllmConfig.get_quantization_config(own.model_config, own.load_config)
    else:  # the command line's, for all models, if any
        quant = copy.deepcopy(vllm_config.quant_config)
    if quant is not None:
        _name_layers(quant, f"{prefix}.")
    return replace(own, cache_config=cache, quant_config=quant)


def _window(config: Any) -> int | None:
    """The window of layers that are told none, as vLLM has it of a model alone; the whole's is none."""
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    alike = kinds == {"sliding_attention"} and getattr(config, "use_sliding_window", True)
    return (getattr(config, "sliding_window", None) or None) if alike else None


def _name_layers(quant: Any, role: str) -> None:
    """Lets a configuration find its layers by their names in the model alone, such as those that it leaves out."""
    found = quant.get_quant_method
    quant.get_quant_method = lambda layer, prefix: found(layer, prefix.removeprefix(role))
