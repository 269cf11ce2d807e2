"""The static layers of one model, and the tensors that say which slots a row has: what a forward pass is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eft_ext.decoding.static_cache.layers import StaticLayer

BUCKET = 64  # attention reads a multiple of this many slots, so that a loop meets few shapes


class Storage:
    """Keys, values and lengths of a batch of rows; it grows, and its addresses change only then.

    Args:
        windows: of each layer; None where it sees everything.

    Attributes:
        lengths: tokens that each row holds, int64 [storage] on the model's device, of which the first `rows` are used.
        rows: in use.
        capacity: tokens that a row may hold.
        sliding: whether some layer has a window.
    """

    def __init__(self, windows: Sequence[int | None]) -> None:
        self._layers = [StaticLayer(window) for window in windows]
        self.sliding = any(windows)
        self.lengths = torch.empty(0, dtype=torch.int64)
        self.rows = 0
        self.capacity = 0
        self._placed: tuple[Any, ...] = ()
        self._arguments: tuple[Any, tuple[Any, ...]] = ((), ())

    def start(self, stock: Any, lengths: Tensor, capacity: int, length: int | None = None) -> None:
        """All rows from scratch, with prompts that transformers has read; made larger where they would not fit.

        Args:
            stock: transformers' cache of them.
            lengths: real tokens of each, [rows].
            capacity: tokens that each row is expected to grow to.
            length: `lengths` on the host, where all are the same.
        """
        self.rows = len(lengths)
        if self.rows > len(self.lengths) or capacity > self.capacity:
            self.capacity = round_up(capacity)
            self.lengths = lengths
            for layer in self._layers:
                layer.keys = layer.values = None
        self.lengths[: self.rows] = lengths
        self._arguments = ((), ())
        self._load(None, stock, lengths, length)
        self._place()

    def admit(self, rows: Tensor, stock: Any, lengths: Tensor, length: int | None = None) -> None:
        """Other prompts into `rows` (indices), which `capacity` has room for."""
        self.lengths[rows.to(self.lengths.device)] = lengths
        self._load(rows, stock, lengths, length)

    def _load(self, rows: Tensor | None, stock: Any, lengths: Tensor, length: int | None) -> None:
        for mine, theirs in zip(self._layers, stock.layers, strict=False):  # the last may hold nothing
            mine.load(rows, len(self.lengths), self.capacity, theirs, lengths, length)

    def select_rows(self, rows: Sequence[int]) -> None:
        """Goes on with these rows only (indices into the present ones), in this order."""
        moved = [(row, place) for place, row in enumerate(rows) if row != place]
        if moved:
            source, target = torch.tensor(moved, device="cpu").T
            self.lengths[target.to(self.lengths.device)] = self.lengths[source.to(self.lengths.device)]
            for layer in self._layers:
                layer.move(source, target)
        self.rows = len(rows)

    def grow(self, tokens: int) -> None:
        """Room for more tokens in every row than before."""
        self.capacity = round_up(max(tokens, 2 * self.capacity))
        for layer in self._layers:
            layer.grow(self.capacity)
        self._place()

    def _place(self) -> None:
        """First slots and column numbers, which change with sizes only."""
        device, rows = self.lengths.device, self.lengths.shape[0]
        full = next((layer.size for layer in self._layers if layer.window is None), 0)
        ring = next((layer.size for layer in self._layers if layer.window is not None), 0)
        if self._placed == (rows, full, ring, device):
            return
        self._placed = (rows, full, ring, device)
        row = torch.arange(rows, device=device)[:, None]
        self._bases = (row * full, row * ring)
        self._columns = (torch.arange(full, device=device), torch.arange(ring, device=device))

    def bound(self, longest: int) -> int:
        """Slots of a full layer that attention reads where the longest row holds so many tokens."""
        return min(self._columns[0].shape[0], round_up(longest))

    def inputs(self, longest: int) -> tuple[Any, ...]:
        """The inputs of `Forward` beside tokens and lengths: made again where rows, sizes or the bound have changed."""
        rows, bound = self.rows, self.bound(longest)
        if self._arguments[0] != (rows, bound, self._placed):
            stored = [x[:rows] for layer in self._layers for x in (layer.keys, layer.values)]
            bases = tuple(base[:rows] for base in self._bases)
            columns = (self._columns[0][:bound], self._columns[1])
            self._arguments = (rows, bound, self._placed), (bases, columns, *stored)
        return self._arguments[1]

    def addresses(self) -> tuple[int, ...]:
        """Addresses of all that a pass reads and writes."""
        stored = (x for layer in self._layers for x in (layer.keys, layer.values))
        return tuple(x.data_ptr() for x in (self.lengths, *self._bases, *self._columns, *stored))


def round_up(tokens: int) -> int:
    return -(-tokens // BUCKET) * BUCKET
