"""Attention heads of another size and the same function, for engines whose kernels lack the size that was trained."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

_DIMENSION = {"q_proj": 0, "k_proj": 0, "v_proj": 0, "o_proj": 1}  # along which a weight has its heads


def resize_heads(model: LlamaForCausalLM, head_dim: int) -> LlamaForCausalLM:
    """Widens the heads n-fold, or undoes that; zeros fill the new places, and training leaves them zero.

    A head's rotary frequencies are every n-th frequency of the wider head, so its rows move there. Attention
    divides by the root of `head_dim`, so the queries grow by the root of n. They are rounded once: for n = 4 the
    factor is 2 and the result exact, for n = 2 a logit moves by no more than fp32 arithmetic already moves it.

    Args:
        model: of rotary type "default".
        head_dim: a multiple of the present size; or a divisor, to which the heads had been widened.

    Returns:
        A new model, or `model` itself where its heads have this size.

    Raises:
        ValueError: another `head_dim` or rotary type, or a narrower head would lose weights that are not zero.
    """
    old = model.config.head_dim
    if head_dim == old:
        return model
    small, large = sorted((old, head_dim))
    if small < 2 or small % 2 or large % small:
        raise ValueError(f"head_dim: expected an even divisor or a multiple of {old}, got {head_dim}")
    rotary = model.config.rope_parameters["rope_type"]
    if rotary != "default":
        raise ValueError(f"model: expected rotary embeddings of type 'default', got {rotary!r}")
    places = torch.arange(small // 2, device=model.device) * (large // small)
    places = torch.cat([places, large // 2 + places])  # rotary pairs stand half a head apart

    def resized(weight: Tensor, dim: int, scale: float) -> Tensor:
        heads = weight.unflatten(dim, (-1, old)).double() * scale
        shape = [*heads.shape]
        shape[dim + 1] = head_dim
        if head_dim > old:
            new = heads.new_zeros(shape).index_copy(dim + 1, places, heads)
        else:
            new = heads.index_select(dim + 1, places)
            if new.count_nonzero() != heads.count_nonzero():
                raise ValueError(
                    f"head_dim: expected heads that were widened from {head_dim}, got other heads of {old}"
                )
        return new.flatten(dim, dim + 1).to(weight.dtype)

    weights = model.state_dict()
    for name, weight in weights.items():
        module, kind = name.split(".")[-2:]
        if module in _DIMENSION and (module, kind) != ("o_proj", "bias"):
            scale = math.sqrt(head_dim / old) if module == "q_proj" else 1.0
            weights[name] = resized(weight, _DIMENSION[module], scale)
    config = copy.deepcopy(model.config)
    config.head_dim = head_dim
    other = AutoModelForCausalLM.from_config(config, dtype=model.dtype).to(model.device)
    other.load_state_dict(weights)
    other.generation_config = copy.deepcopy(model.generation_config)
    return other.train(model.training)
