"""Prompts as every model reads them: padding on the left, then the text without a gap; and their first pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from eft_ext.decoding.model_facts import forward_parameters


def left_padded(ids: Tensor, mask: Tensor | None, name: str = "attention_mask") -> tuple[Tensor, Tensor | None]:
    """Moves what `mask` leaves out to the front of each row, and cuts off what is padding in all of them.

    A masked token is no token, wherever it stands: the model sees the row as if it had never been there, as it does in
    transformers, where neither attention nor positions count it.

    Args:
        ids, mask: [rows, length]; 0 is padding. None is a mask of ones.
        name: of the argument, for messages.

    Returns:
        ids and int64 mask [rows, longest text]; the mask is None where nothing is padded.

    Raises:
        ValueError: the shapes differ, or a row is all padding.
    """
    if mask is None:
        return ids, None
    if mask.shape != ids.shape:
        raise ValueError(f"{name}: expected a mask of {list(ids.shape)}, as the ids, got {list(mask.shape)}")
    mask = (mask.to(ids.device) != 0).long()
    lengths = mask.sum(1)
    moves = (mask[:, 1:] < mask[:, :-1]).any()
    shortest, longest, moves = torch.stack([*lengths.aminmax(), moves.long()]).tolist()  # one wait for the device
    if not shortest:
        raise ValueError(f"{name}: expected a token in every row, row {int(lengths.argmin())} is all padding")
    if moves:
        order = mask.argsort(dim=1, stable=True)
        ids, mask = ids.gather(1, order), mask.gather(1, order)
    ids, mask = ids[:, -longest:], mask[:, -longest:]
    return ids, None if shortest == longest else mask


def positions_of(ids: Tensor, mask: Tensor | None) -> Tensor:
    """Positions [rows, length] of prompts that are padded on the left; 0 where there is padding."""
    if mask is None:
        return torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    return (mask.cumsum(-1) - 1).clamp(min=0)


def lengths_of(ids: Tensor, mask: Tensor | None) -> list[int]:
    """Tokens of each row, without padding."""
    return [ids.shape[1]] * len(ids) if mask is None else mask.sum(-1).tolist()


def read_prompts(model: Any, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Any, Tensor]:
    """Logits [rows, vocab] after prompts [rows, length] that are `left_padded`, their cache, and lengths [rows]."""
    positions, stock = positions_of(ids, mask), DynamicCache(config=model.config.get_text_config(decoder=True))
    last_only = {"logits_to_keep": 1} if "logits_to_keep" in forward_parameters(model) else {}
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=stock,
        use_cache=True,
        return_dict=True,
        **last_only,
    )
    return out.logits[:, -1], stock, positions[:, -1] + 1
