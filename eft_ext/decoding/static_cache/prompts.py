"""Prompts as transformers reads them, into a cache of its own that static layers load."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache

from eft_ext.decoding.model_facts import forward_parameters
from eft_ext.decoding.padding import positions_of


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
