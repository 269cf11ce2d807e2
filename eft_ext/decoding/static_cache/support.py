"""Decides if a model can be decoded from static caches, and says why not."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from eft_ext.decoding.model_facts import cache_layers, forward_parameters, input_table
from eft_ext.decoding.module_utils import modules_of
from eft_ext.decoding.static_cache.trial import static_is_right

# The attention whose additive mask bounds it by each row's length. Others take no such mask.
_ATTENTION = ("sdpa", "eager")
_TESTED = frozenset(  # by python_tests/families, from static caches
    """
    llama qwen2 qwen2_moe qwen3 qwen3_moe mistral mixtral ministral ministral3 gemma gemma2 gemma3_text gemma3n_text
    gemma4_text phi phi3 phimoe olmo olmo2 olmo3 olmoe granite granitemoe smollm3 cohere cohere2 deepseek_v2 deepseek_v3
    glm glm4 glm4_moe gpt_oss starcoder2 stablelm nemotron exaone4 ernie4_5 seed_oss hunyuan_v1_dense apertus arcee gpt2
    gptj gpt_neox gpt_bigcode codegen opt falcon persimmon qwen2_vl_text qwen2_5_vl_text qwen3_vl_text
    """.split()  # noqa: SIM905
)
IN_MODULES = ("recurrent_gemma",)  # state that no cache holds: lost between models that share their modules
_TRIED: WeakKeyDictionary[nn.Module, str | None] = WeakKeyDictionary()
_LAYERS = ("full_attention", "sliding_attention")


def unsupported(model: Any) -> str | None:
    """Returns None if static caches can run `model`, a causal language model of transformers.

    Otherwise the reason, as the end of a sentence that begins with the model's name.
    """
    config = model.config.get_text_config(decoder=True)
    if model.config.is_encoder_decoder:
        return "is an encoder-decoder"
    if config.model_type in IN_MODULES:
        return "keeps its state in its modules"
    accepted = forward_parameters(model)
    for needed in ("past_key_values", "position_ids", "attention_mask"):
        if needed not in accepted:
            return f"has a forward pass without {needed}"
    if getattr(config, "alibi", False) or getattr(config, "position_embedding_type", None) == "alibi":
        return "places tokens by ALiBi, which transformers derives from an unbroken mask"
    attention = getattr(config, "_attn_implementation", None)
    if attention not in _ATTENTION:
        return (
            f"uses attention {attention!r}, which cannot be bounded row by row (load with attn_implementation='sdpa')"
        )
    kinds = set(getattr(config, "layer_types", None) or ()) - set(_LAYERS)
    if kinds:
        return f"has layers of kind {min(kinds)!r}"
    if input_table(model).weight.device.type == "meta":
        return "has offloaded weights"
    return _rope(model) or _cache(config) or (None if config.model_type in _TESTED else _tried(model))


def is_tested(model: Any) -> bool:
    """True if the tests know the model's family, from static caches and from transformers' own."""
    return model.config.get_text_config(decoder=True).model_type in _TESTED


def _rope(model: Any) -> str | None:
    for module in modules_of(model):
        rope = getattr(module, "rope_type", None)
        for kind in rope.values() if isinstance(rope, dict) else (rope,):
            if isinstance(kind, str) and ("dynamic" in kind or kind == "longrope"):
                return f"has RoPE of type {kind!r}, whose frequencies depend on the longest row"
    return None


def _tried(model: Any) -> str | None:
    """A model of a family that the tests do not know: two short rows, from static caches and from transformers' own."""
    if model not in _TRIED:
        try:
            _TRIED[model] = None if static_is_right(model) else "gives other logits from static caches"
        except Exception as error:  # whatever a model does with a cache, a mask or positions of another kind
            _TRIED[model] = f"cannot use static caches ({type(error).__name__})"
    return _TRIED[model]


def _cache(config: Any) -> str | None:
    try:
        layers = cache_layers(config)
    except Exception as error:  # a model with a cache class of its own
        return f"needs a cache of its own ({type(error).__name__})"
    other = next((layer for layer in layers if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer)), None)
    return None if other is None else f"needs cache layers of type {type(other).__name__}"
