"""Refusals at an engine's start, each in one line, before any weights are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from transformers import PretrainedConfig

from eft_ext.config import EmulatedConfig
from eft_ext.hf.checkpoint.read import Place, read

LOAD_FORMAT = "emulated-"  # and one of READS: the formats of loader.py
READS = ("auto", "hf", "safetensors")  # formats of vLLM's own loader that it stands for
# Ways of drafting that need nothing of the large model's own hidden states.
_DRAFTERS = ("draft_model", "ngram", "ngram_gpu", "suffix")
# Options that several models as one can have one value of: the place in vLLM's configuration, the name, the value.
_ONLY: tuple[tuple[str, str, Any], ...] = (
    ("parallel_config.pipeline_parallel_size", "pipeline_parallel_size", 1),
    ("parallel_config.decode_context_parallel_size", "decode_context_parallel_size", 1),
    ("parallel_config.prefill_context_parallel_size", "prefill_context_parallel_size", 1),
    ("parallel_config.use_ubatching", "enable_dbo", False),
    ("model_config.runner_type", "runner", "generate"),
    ("model_config.convert_type", "convert", "none"),
    ("model_config.enable_prompt_embeds", "enable_prompt_embeds", False),
    ("model_config.disable_sliding_window", "disable_sliding_window", False),
    ("cache_config.kv_sharing_fast_prefill", "kv_sharing_fast_prefill", False),
)


def places(model_config: Any) -> dict[str, Place]:
    """Each model's weights by its name. Raises ValueError where the checkpoint does not say, or lacks a folder."""
    revision = {} if model_config.revision is None else {"revision": model_config.revision}
    return read(model_config.model, revision, config=model_config.hf_config).places


def check_front_end() -> None:
    """Raises ValueError for a server that would not check requests' parameters before the engine has them."""
    if (given := os.environ.get("VLLM_USE_RUST_FRONTEND", "0")) != "0":
        raise ValueError(f"VLLM_USE_RUST_FRONTEND: expected 0 for several models as one, got {given}")


def check_options(vllm_config: Any) -> None:
    """Raises ValueError for an option of the engine that several models as one cannot follow."""
    for place, name, wanted in _ONLY:
        given = attrgetter(place)(vllm_config)
        if given != wanted:
            shown, came = ("none", "") if wanted is False else (repr(wanted), f", got {given!r}")
            raise ValueError(f"{name}: expected {shown} for several models as one{came}")
    if vllm_config.lora_config is not None:
        raise ValueError("enable_lora: expected none for several models as one; merge adapters, then eft pack")
    speculation = vllm_config.speculative_config
    if speculation is not None and speculation.method not in _DRAFTERS:
        drafters = ", ".join(_DRAFTERS)
        raise ValueError(f"speculative_config: expected one of {drafters} as method, got {speculation.method!r}")
    if speculation is not None and speculation.enable_adaptive_verification:
        raise ValueError("enable_adaptive_verification: expected none for several models as one")
    given = vllm_config.load_config.load_format
    if given not in (*READS, "dummy") and not given.startswith(LOAD_FORMAT):
        raise ValueError(f"load_format: expected one of {', '.join(READS)} or dummy, got {given!r}")


def check_models(config: EmulatedConfig, where: Mapping[str, Place], tensor_parallel_size: int) -> None:
    """Raises ValueError for a method or a model that vLLM cannot run beside others.

    Args:
        where: each model's weights, as `places` finds them.
    """
    method = config.mixing_method
    if method.last_token_only:
        raise ValueError(f"method: expected one whose models read one prompt, got {type(method).__name__}")
    for name, place in where.items():
        own = getattr(config, name)
        if place.adapter:
            raise ValueError(f"{name}: expected whole weights, got an adapter; merge_and_unload(), then eft pack")
        if not isinstance(own, PretrainedConfig):
            raise ValueError(f"{name}: expected a model that transformers knows, got one with code of its own")
        if own.get_text_config() is not own or not own.architectures:
            raise ValueError(f"{name}: expected a causal language model of text, got {own.model_type!r}")
        check_heads(name, own, tensor_parallel_size)


def check_heads(name: str, config: PretrainedConfig, ranks: int) -> None:
    """Raises ValueError where tensor parallelism cannot share out a model's heads."""
    if (heads := getattr(config, "num_attention_heads", None)) is None:
        return  # no attention at all: refused by its architecture
    shared = getattr(config, "num_key_value_heads", None) or heads
    if heads % ranks:
        raise ValueError(f"tensor_parallel_size: expected a divisor of {name}'s {heads} heads, got {ranks}")
    if shared % ranks and ranks % shared:
        raise ValueError(
            f"tensor_parallel_size: expected a divisor or a multiple of {name}'s {shared} key-value heads, got {ranks}"
        )
