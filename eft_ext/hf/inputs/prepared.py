"""Inputs that transformers' generate has prepared for the first model, checked, and made into every model's prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from eft_ext.decoding.requests import Prompt as Pair
from eft_ext.hf.inputs.prompts import Prompt
from eft_ext.hf.inputs.token_ids import as_list
from eft_ext.hf.members import Member
from eft_ext.methods import MixingMethod

# What may stand beside the arguments of `decode`; anything else would be silently ignored.
_KNOWN = {"attention_mask", "position_ids", "past_key_values", "cache_params", "use_cache", "logits_to_keep"}


def check_prepared(model_kwargs: Mapping[str, Any]) -> None:
    """Raise ValueError for a model input that the models cannot share."""
    # Of a model that reads images too, transformers prepares an empty mapping where there are none.
    given = {k: v for k, v in model_kwargs.items() if v is not None and not (isinstance(v, Mapping) and not v)}
    unknown = sorted(given.keys() - _KNOWN)
    if unknown:
        raise ValueError(f"{unknown[0]}: not supported by emulated fine-tuning (the models share only token ids)")
    if _filled(model_kwargs.get("past_key_values")):
        raise ValueError("past_key_values: expected none or an empty cache, since each of the models has its own")
    _check_positions(model_kwargs.get("position_ids"), model_kwargs.get("attention_mask"))


def prompts_of_models(
    members: tuple[Member, ...],
    method: MixingMethod,
    ids: Tensor,
    mask: Tensor | None,
    prompts: Mapping[str, Prompt],
    config: GenerationConfig,
) -> list[Pair]:
    """Ids and mask that each model reads, packed to the left.

    Args:
        ids, mask: the first model's [rows, length], each prompt standing num_return_sequences times.
        prompts: others, by model.

    Raises:
        ValueError: another number of prompts, or a row that is all padding.
    """
    copies, rows = config.num_return_sequences or 1, len(ids)
    own = Prompt(ids, mask).packed("attention_mask")
    ends = as_list(config.eos_token_id)
    others = {name: prompt.inferred(config.pad_token_id, ends).repeat(copies) for name, prompt in prompts.items()}
    for name, prompt in others.items():
        if prompt.ids.shape[0] != rows:
            raise ValueError(f"prompts[{name!r}]: expected {rows // copies} rows, got {prompt.ids.shape[0] // copies}")
        others[name] = prompt.packed(f"prompts[{name!r}]")
    usual = {member.name: own.last if member.name in method.last_token_only else own for member in members}
    return [others.get(name, prompt).pair for name, prompt in usual.items()]


def pad_token(config: GenerationConfig, width: int) -> int | None:
    """The token that fills a row that has ended: pad_token_id, else the first EOS, as in transformers.

    None where only ids that no model has end a text, such as −1: no row ends by them, and nothing is padded.

    Raises:
        ValueError: pad_token_id is outside the first model's `width` logits, where scores have their columns.
    """
    pad, end = config.pad_token_id, next((end for end in as_list(config.eos_token_id) if 0 <= end < width), None)
    if pad is None or (end is None and not 0 <= int(pad) < width):
        return end
    if not 0 <= int(pad) < width:
        raise ValueError(f"pad_token_id: expected 0 to {width - 1}, the first model's vocabulary, got {pad}")
    return int(pad)


def _filled(cache: Any) -> bool:
    try:
        return cache is not None and cache.get_seq_length() > 0
    except ValueError:  # a new cache of a model without attention layers
        return False


def _check_positions(positions: Tensor | None, mask: Tensor | None) -> None:
    """Raise ValueError for positions other than those that follow from the mask, as transformers derives them."""
    if positions is None:
        return
    if mask is None:
        usual = bool((positions == torch.arange(positions.shape[-1], device=positions.device)).all())
    else:
        usual = bool(((positions == mask.cumsum(-1) - 1) | (mask == 0)).all())
    if not usual:
        raise ValueError("position_ids: not supported by emulated fine-tuning (each model's follow from its mask)")
