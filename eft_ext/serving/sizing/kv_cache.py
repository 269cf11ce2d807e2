"""The memory of keys and values in vLLM 0.32, of several models' layers in one cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

BLOCK = 16  # tokens of a block: vLLM's default on GPUs


@dataclass(frozen=True)
class Layer:
    """The keys and values of one attention layer on one GPU.

    Args:
        heads, width: key-value heads and the size of one; 0 and the latent's size for latent attention.
        size: bytes of a number.
        window: tokens that it keeps, 0 for all.
    """

    heads: int
    width: int
    size: int
    window: int = 0

    @property
    def bytes(self) -> int:
        """Bytes of a token: a key and a value for each head, or one latent."""
        return (2 * self.heads or 1) * self.width * self.size


def layers_of(config: Any, size: int, ranks: int = 1) -> list[Layer]:
    """The layers of a model on one of so many GPUs; where those outnumber key-value heads, some hold the same one."""
    count = config.num_hidden_layers
    if (latent := getattr(config, "kv_lora_rank", None)) is not None:  # whole on each GPU
        return [Layer(0, latent + config.qk_rope_head_dim, size)] * count
    heads, width = kv_heads(config)
    window = getattr(config, "sliding_window", None) or 0
    window = window if getattr(config, "use_sliding_window", True) else 0
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * count
    return [
        Layer(max(1, heads // ranks), width, size, window if kind == "sliding_attention" else 0)
        for kind in kinds[:count]
    ]


def kv_heads(config: Any) -> tuple[int, int]:
    """The number of a layer's key-value heads, and the size of a head."""
    heads = config.num_attention_heads
    shared = getattr(config, "num_key_value_heads", None) or getattr(config, "num_kv_heads", None) or heads
    if getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False):
        shared = 1  # Falcon, GPT-BigCode
    return shared, getattr(config, "head_dim", None) or config.hidden_size // heads


@dataclass(frozen=True)
class Cache:
    """One GPU's cache, cut into blocks as vLLM does.

    Args:
        block_bytes: of one block.
        groups: of layers that take blocks by themselves, each as the tokens of its block and its window.
    """

    block_bytes: int
    groups: tuple[tuple[int, int], ...]

    def blocks(self, tokens: int, in_flight: int) -> int:
        """Blocks that a request of so many tokens takes.

        Args:
            in_flight: tokens of the steps that run at once; a layer with a window keeps them beside it.
        """
        return sum(
            ceil(min(window - 1 + in_flight, tokens) / block) + 1 if window else ceil(tokens / block)
            for block, window in self.groups
        )


def cache(layers: Sequence[Layer]) -> Cache:
    """The cache of all models' layers, as `vllm.v1.core.kv_cache_utils.get_kv_cache_groups` makes it.

    Layers that keep the same tokens share blocks, whatever their heads. Otherwise each group has as many layers, all
    padded to the largest; smaller ones hold more tokens in a block where that divides.
    """
    if len({layer.window for layer in layers}) == 1:
        return Cache(BLOCK * sum(layer.bytes for layer in layers), ((BLOCK, layers[0].window),))
    largest = max(layer.bytes for layer in layers)
    alike = Counter(layers)
    fewest, most = min(alike.values()), max(alike.values())
    each = most if most < 1.5 * fewest else fewest  # layers of a group
    groups = [
        (BLOCK * (largest // layer.bytes if largest % layer.bytes == 0 else 1), layer.window)
        for layer, count in alike.items()
        for _ in range(ceil(count / each))
    ]
    return Cache(BLOCK * largest * each, tuple(groups))
