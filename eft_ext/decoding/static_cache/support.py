"""Decides if a model can be decoded from static caches, and says why not."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from eft_ext.decoding.module_utils import modules_of

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
    """Why `model`, a causal language model of transformers, has to be run with transformers' own cache.

    None where static caches do; otherwise the end of a sentence that begins with the model's name.
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


def input_table(model: Any) -> Any:
    """The input embedding itself, under whatever adapters are on it."""
    table = model.get_input_embeddings()
    for wrapped in ("original_module", "base_layer"):  # of peft: a wrapper of modules, then a layer of an adapter
        table = getattr(table, wrapped, table)
    return table


def is_tested(model: Any) -> bool:
    """True if the tests know the model's family, from static caches and from transformers' own."""
    return model.config.get_text_config(decoder=True).model_type in _TESTED


def forward_parameters(model: Any) -> set[str]:
    """Names that the forward pass accepts (a PEFT model hides them behind **kwargs)."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = inner.__dict__.get("forward")  # where a library has put its own in front of the class's
    return set(inspect.signature(own).parameters) if own is not None else _parameters_of(inner.__class__)


@cache
def _parameters_of(kind: Any) -> set[str]:
    return set(inspect.signature(kind.forward).parameters)


def learned_positions(model: Any) -> int | None:
    """Positions in a table, learned or of sines (GPT-J), which must not be overrun; None where they are computed.

    Tables of OPT's kind have `offset` rows more, which no position uses.
    """
    limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    tokens = input_table(model)
    for module in modules_of(model):
        sines = getattr(module, "embed_positions", None)
        if isinstance(sines, torch.Tensor) and len(sines) == limit:
            return int(limit)
        if not isinstance(module, nn.Embedding) or module is tokens:
            continue
        if module.num_embeddings - getattr(module, "offset", 0) == limit:
            return int(limit)
    return None


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
        _TRIED[model] = "is of an untested family"  # which this very check may go on with
        try:
            _TRIED[model] = None if static_is_right(model) else "gives other logits from static caches"
        except Exception as error:  # whatever a model does with a cache, a mask or positions of another kind
            _TRIED[model] = f"cannot use static caches ({type(error).__name__})"
    return _TRIED[model]


@torch.inference_mode()
def static_is_right(model: Any) -> bool:
    """True if rows of different lengths get the logits that they get alone."""
    from eft_ext.decoding.static_cache.model import StaticCacheModel

    device = input_table(model).weight.device
    rows = [[1, 2, 3, 4], [2, 1]]
    ids, mask = torch.tensor([rows[0], [0, 0, *rows[1]]], device=device), torch.ones(2, 4, device=device).long()
    mask[1, :2] = 0
    feeder = StaticCacheModel(model, checked=False)
    feeder.prefill(ids, mask)
    new = torch.tensor([[3, 1], [4, 2]], device=device)
    got = torch.cat([feeder.forward(new[:, :1]), feeder.forward(new[:, 1:])], dim=1)
    for row, tokens in enumerate(rows):
        alone = model(input_ids=torch.tensor([tokens + new[row].tolist()], device=device)).logits[0, -2:].float()
        scale = alone.abs().amax().clamp(min=1)
        if not bool(((got[row].float().to(alone.device) - alone).abs() <= 0.05 * scale).all()):
            return False
    return True


def cache_layers(config: Any) -> list[Any]:
    """Layers of transformers' cache, without those at the end that hold nothing since they read an earlier one's."""
    layers = list(DynamicCache(config=config).layers)
    while layers and type(layers[-1]).__name__ == "DummyLayer":  # older releases of transformers leave them out
        layers.pop()
    return layers


def _cache(config: Any) -> str | None:
    try:
        layers = cache_layers(config)
    except Exception as error:  # a model with a cache class of its own
        return f"needs a cache of its own ({type(error).__name__})"
    other = next((layer for layer in layers if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer)), None)
    return None if other is None else f"needs cache layers of type {type(other).__name__}"
