"""EmulatedCache: the models' caches as one, for loops that know one cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Cache


class EmulatedCache(Cache):
    """One transformers cache per model; they grow, reorder and crop together.

    Args:
        caches: each model's, by name; the length is the first one's.
    """

    # What is compiled over one cache knows one model's layers: each model makes its own masks here.
    is_compileable = False
    layer_class_to_replicate = None
    offloading = False

    def __init__(self, caches: Mapping[str, Cache]) -> None:
        # Not the base's: layers may come as the models run.
        self.caches = dict(caches)

    def __getitem__(self, name: str) -> Cache:
        return self.caches[name]

    @property
    def layers(self) -> list[Any]:
        """All models' layers, the first model's first."""
        return [layer for cache in self.caches.values() for layer in cache.layers]

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """The number of tokens that the smallest cache can hold; −1 if all grow."""
        rooms = [getattr(cache, "get_max_cache_shape", cache.get_max_length)() for cache in self.caches.values()]
        return min((room for room in rooms if room is not None and room >= 0), default=-1)

    def __repr__(self) -> str:
        return f"EmulatedCache({', '.join(f'{name}={cache}' for name, cache in self.caches.items())})"
