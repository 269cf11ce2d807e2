"""The generation loop in transformers, a baseline of decoding: three forward passes, its cache and chain, one draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from common.transformers_chain import transformers_chain


@torch.no_grad()
def transformers_loop(
    models: list[Any], ids: Tensor, mask: Tensor, steps: int, options: dict[str, float], eos: int
) -> Tensor:
    """Returns left-padded prompts [rows, length] and `steps` new tokens, one forward pass of each model a token."""
    chain = transformers_chain(options)
    caches = [DynamicCache(config=model.config) for model in models]
    ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    tokens_in = ids
    for _ in range(steps):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens_in.shape[1] :]
        logits = [
            model(
                input_ids=tokens_in,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                logits_to_keep=1,
            ).logits[:, -1]
            for model, cache in zip(models, caches, strict=True)
        ]
        tokens = chain(*logits)
        ids = torch.cat([ids, tokens[:, None]], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        ended |= tokens == eos
        if ended.all():
            break
        tokens_in = tokens[:, None]
    return ids


@torch.no_grad()
def forward_pass(model: Any, rows: int, context: int) -> Callable[[], Tensor]:
    """Returns transformers' forward pass of one new token a row, after `context` others."""
    device = model.get_input_embeddings().weight.device
    cache = DynamicCache(config=model.config)
    prompt = torch.full((rows, context), 5, device=device)
    with torch.no_grad():
        model(input_ids=prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
    token, position = prompt[:, :1], torch.full((rows, 1), context, device=device)

    def forward() -> Tensor:
        for layer in cache.layers:  # drops the token of the last call
            layer.keys, layer.values = layer.keys[:, :, :context], layer.values[:, :, :context]
        with torch.no_grad():
            logits: Tensor = model(
                input_ids=token, position_ids=position, past_key_values=cache, use_cache=True, logits_to_keep=1
            ).logits
        return logits

    return forward
