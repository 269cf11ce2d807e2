"""The needs of transformers' own caches: families with recurrent layers differ in them."""

from __future__ import annotations

from typing import Any

from transformers import DynamicCache

from eft_ext.decoding.model_facts import forward_parameters
from eft_ext.decoding.static_cache.support import IN_MODULES
from eft_ext.hf.members import Member

RECURRENT = "cache_params"  # where nothing but the state is kept: its mask is that of the new tokens


def cache_argument(member: Member) -> str | None:
    """The argument by which the forward pass takes a cache that grows, None where it takes none."""
    if member.config.model_type in IN_MODULES:
        return None
    accepted = forward_parameters(member.model)
    return next((name for name in ("past_key_values", RECURRENT) if name in accepted), None)


def new_cache(member: Member) -> Any:
    """An empty cache for a generation; None for a model that makes one of its own kind in its first pass."""
    default = getattr(member.model, "_supports_default_dynamic_cache", lambda: True)()
    return DynamicCache(config=member.config) if default else None


def rope_turn(member: Member) -> int | None:
    """Tokens above which the longest row gives all positions other frequencies (RoPE of the kind longrope)."""
    rope = getattr(member.config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return None
    name = "original_max_position_embeddings"
    turn = rope.get(name) or getattr(member.config, name, None)
    return None if turn is None else int(turn)
