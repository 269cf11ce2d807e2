"""Facts about a causal language model of transformers, from its modules and its configuration."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from eft_ext.decoding.module_utils import modules_of


def input_table(model: Any) -> Any:
    """The input embedding itself, under whatever adapters are on it."""
    table = model.get_input_embeddings()
    for wrapped in ("original_module", "base_layer"):  # of peft: a wrapper of modules, then a layer of an adapter
        table = getattr(table, wrapped, table)
    return table


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
        sines = vars(module).get("embed_positions", module._buffers.get("embed_positions"))
        if isinstance(sines, torch.Tensor) and len(sines) == limit:
            return int(limit)
        if not isinstance(module, nn.Embedding) or module is tokens:
            continue
        if module.num_embeddings - getattr(module, "offset", 0) == limit:
            return int(limit)
    return None


def cache_layers(config: Any) -> list[Any]:
    """Layers of transformers' cache, without those at the end that hold nothing since they read an earlier one's."""
    layers = list(DynamicCache(config=config).layers)
    while layers and type(layers[-1]).__name__ == "DummyLayer":  # older releases of transformers leave them out
        layers.pop()
    return layers


def layer_windows(config: Any) -> list[int | None]:
    """The window of each layer of the cache; None where it sees everything."""
    return [getattr(layer, "sliding_window", None) for layer in cache_layers(config)]
