"""One model's part in a forward pass of the mixture, under the names that its family has for the arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, QuantizedCache, StaticCache

from eft_ext.decoding.model_facts import forward_parameters
from eft_ext.decoding.module_utils import modules_of
from eft_ext.hf.adapters import is_peft
from eft_ext.hf.causal_lm.cache import EmulatedCache
from eft_ext.hf.members import Member
from eft_ext.hf.runners.caches import cache_argument, new_cache


def why_no_cache(members: tuple[Member, ...]) -> str | None:
    """Names the first model that keeps no cache of transformers' common kind; None where all do."""
    for member in members:
        if cache_argument(member) != "past_key_values" or new_cache(member) is None:
            return f"{member.name}: {type(member.model).__name__} keeps a cache of its own kind"
    return None


def new_caches(
    members: tuple[Member, ...], kind: str | None = None, length: int = 0, options: dict[str, Any] | None = None
) -> EmulatedCache:
    """Empty caches for all models.

    Args:
        kind: cache_implementation of a generation; None grows.
        length: tokens that a static one has room for.
        options: cache_config of quantized ones.
    """

    def one(config: Any) -> Any:
        if kind == "quantized":
            given = dict(options or {})
            return QuantizedCache(backend=given.pop("backend", "quanto"), **{"config": config, **given})
        if kind is not None and "static" in kind:
            return StaticCache(config=config, max_cache_len=length, offloading="offloaded" in kind)
        return DynamicCache(config=config, offloading=kind == "offloaded")

    return EmulatedCache({member.name: one(member.config) for member in members})


def run_member(
    member: Member,
    read: tuple[Tensor, Any, Tensor | None],
    caches: EmulatedCache | None,
    keep: int | Tensor,
    outputs: Mapping[str, Any],
) -> Any:
    """The output of one model for the tokens that the mixture reads; its logits are of the positions of `keep`.

    Args:
        read: input_ids, attention_mask and position_ids.
        keep: logits_to_keep, a number of last positions (0 for all), or their indices.
        outputs: output_attentions, output_hidden_states.
    """
    input_ids, attention_mask, position_ids = read
    device = member.device or input_ids.device
    accepted = forward_parameters(member.model)
    inputs: dict[str, Any] = {"attention_mask": _on(attention_mask, device)}
    if position_ids is not None and "position_ids" in accepted:
        inputs["position_ids"] = position_ids.to(device)
    if "logits_to_keep" in accepted:
        inputs["logits_to_keep"] = keep
    if caches is not None:
        inputs["past_key_values"] = caches[member.name]
    with member.switch()():
        out = member.model(
            input_ids=input_ids.to(device), use_cache=caches is not None, return_dict=True, **inputs, **outputs
        )
    if "logits_to_keep" not in accepted:
        out.logits = out.logits[:, slice(-keep, None) if isinstance(keep, int) else keep]
    return out


def last_token_only(
    name: str, input_ids: Tensor, caches: EmulatedCache | None, keep: int | Tensor
) -> tuple[Tensor, None, None]:
    """The ids of a model that reads no more of the prompt than its last token, and neither mask nor positions.

    Raises ValueError where the prompt's end is not known.
    """
    if caches is None:
        raise ValueError(f"use_cache: expected a cache, since {name} does not read the prompt, got none")
    if caches[name].get_seq_length() == 0:
        if not isinstance(keep, int) or (keep != 1 and input_ids.shape[1] > 1):
            raise ValueError(
                f"logits_to_keep: expected 1 for a prompt, of which {name} reads the last token alone, got {keep!r}; "
                "EmulatedModel.score knows where prompts end"
            )
        return input_ids[:, -1:], None, None
    return input_ids, None, None


def check_recomputing(members: tuple[Member, ...]) -> None:
    """Raises ValueError where a backward pass would run a model again with an adapter in the wrong state."""
    if not torch.is_grad_enabled():
        return
    for member in members:
        switched = member.without_adapter or member.adapter is not None
        recomputed = (getattr(module, "gradient_checkpointing", False) for module in modules_of(member.model))
        if switched and is_peft(member.model) and any(recomputed):
            raise ValueError(
                f"{member.name}: expected no gradient checkpointing, since it shares its weights with an adapter; "
                f"give {member.name} as a model of its own"
            )


def _on(mask: Any, device: torch.device) -> Any:
    return mask.to(device) if isinstance(mask, Tensor) else mask
