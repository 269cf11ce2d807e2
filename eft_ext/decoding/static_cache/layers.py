"""A key-value cache with fixed storage: every row is written at its own position, and forgetting is O(1).

Token p of row b lies in slot p of a full layer, and in slot p mod `size` of a sliding one, whose storage is a ring
of the window and some slack. What lies beyond a row's length is never read: the mask, which comes from the lengths
alone, excludes it. So cropping sets lengths and touches no key.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

SLACK = 64  # tokens that one `forward` may add, and `crop` take back, where a layer is a ring


class StaticLayer(CacheLayerMixin):
    """Keys and values [rows, size, heads, width] of one layer; `window` is None where all tokens are seen."""

    keys: Any
    values: Any

    def __init__(self, window: int | None = None) -> None:
        super().__init__()
        self.window = window
        self.is_sliding = window is not None

    @property
    def size(self) -> int:
        return 0 if self.keys is None else int(self.keys.shape[1])

    def slots_for(self, capacity: int) -> int:
        """The number of slots that hold `capacity` tokens of a row."""
        return capacity if self.window is None else min(capacity, self.window + SLACK)

    def load(
        self, rows: Tensor | None, count: int, capacity: int, stock: Any, lengths: Tensor, length: int | None
    ) -> None:
        """Takes what transformers' own layer kept of prompts padded on the left.

        Args:
            rows: where the prompts go, of `count` rows; None for the first ones.
            stock: keys and values [prompts, heads, kept, width], the last columns of the padded prompts.
            lengths: real tokens [prompts].
            length: the same on the host, where all prompts are as long.
        """
        size = self.slots_for(capacity)
        for name in ("keys", "values"):
            given = getattr(stock, name).transpose(1, 2)  # [prompts, kept, heads, width]
            stored = getattr(self, name)
            if stored is None or stored.dtype != given.dtype or stored.device != given.device:
                stored = given.new_zeros(count, size, *given.shape[2:])
                setattr(self, name, stored)
            kept = min(given.shape[1], size)
            given = given[:, given.shape[1] - kept :]
            mine = stored[: len(given)].zero_() if rows is None else stored.new_zeros(len(given), *stored.shape[1:])
            first = 0 if length is None else (length - kept) % size
            if length is not None and first + kept <= size:
                mine[:, first : first + kept] = given  # a tenth of the time of what follows
            else:
                # Column j of the kept ones is token lengths - kept + j; negative ones, padding, land behind the row.
                columns = torch.arange(kept, device=given.device)
                token = lengths.to(given.device)[:, None] - kept + columns
                given = given.masked_fill((token < 0)[..., None, None], 0)  # whatever attention made of padding
                mine.scatter_(1, (token % size)[..., None, None].expand(given.shape), given)
            if rows is not None:
                stored.index_copy_(0, rows.to(given.device), mine)
        self.is_initialized = True

    def grow(self, capacity: int) -> None:
        """More slots. Only a layer that has not wrapped yet ever grows."""
        size = self.slots_for(capacity)
        if self.keys is None or size <= self.size:
            return
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros(old.shape[0], size, *old.shape[2:])
            new[:, : old.shape[1]] = old
            setattr(self, name, new)

    def move(self, source: Tensor, target: Tensor) -> None:
        """Rows `source` to where `target` says; storage stays where it is."""
        if self.keys is not None:
            for stored in (self.keys, self.values):
                stored.index_copy_(0, target.to(stored.device), stored[source.to(stored.device)])

    # What transformers asks of a layer; masks and positions are given to the model, so these are not relied on.
    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None: ...

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("a static layer is written through its cache")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.size, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return self.size


class StepCache(Cache):
    """The static layers as a model sees them in one forward pass.

    Args:
        layers: (keys, values, sliding) of every layer.
        slots: where the new tokens are written: flat indices [rows · new] into rows · size, for full layers and
            for sliding ones.
        bound: slots that are read of full layers.
    """

    def __init__(self, layers: list[tuple[Tensor, Tensor, bool]], slots: tuple[Any, Any], bound: int) -> None:
        super().__init__(layers=[StaticLayer(1 if sliding else None) for *_, sliding in layers])
        self._stored, self._slots, self._bound = layers, slots, bound

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes [rows, heads, new, width] and returns all that may be attended to, [rows, heads, bound, width]."""
        keys, values, sliding = self._stored[layer_idx]
        slots = self._slots[sliding]
        if slots.device != keys.device:
            slots = slots.to(keys.device)
        for stored, new in ((keys, key_states), (values, value_states)):
            if new.dtype != stored.dtype:  # under autocast, whose concatenations widen what transformers stores
                new = new.to(stored.dtype)
            stored.flatten(0, 1).index_copy_(0, slots, new.transpose(1, 2).flatten(0, 1))
        if not sliding:
            keys, values = keys[:, : self._bound], values[:, : self._bound]
        return keys.transpose(1, 2), values.transpose(1, 2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0
