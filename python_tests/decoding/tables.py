"""Models that are tables: logits looked up by the last two tokens, so that every output can be enumerated."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

END = 0


class TableReader:
    """A reader of `decoding.speculate` without a model: `table` [vocab, vocab, vocab] by the last two tokens."""

    def __init__(self, table: Tensor, capacity: int = 64) -> None:
        self.table, self.capacity = table, capacity
        self.fed = 0  # calls of `feed`

    def prefill(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        rows, length = ids.shape
        # Beyond a row's length lies what must never be read.
        self.held = torch.full((rows, self.capacity), 10**6)
        if mask is None:
            self.held[:, :length] = ids
            self.lengths = torch.full((rows,), length)
        else:
            self.lengths = mask.sum(-1)
            for b in range(rows):
                self.held[b, : self.lengths[b]] = ids[b][mask[b] == 1]
        return self._after(self.lengths[:, None] - 1)[:, 0]

    def forward(self, tokens: Tensor) -> Tensor:
        self.fed += 1
        at = self.lengths[:, None] + torch.arange(tokens.shape[1])
        self.held.scatter_(1, at, tokens)
        self.lengths = self.lengths + tokens.shape[1]
        return self._after(at)

    def set_max_length(self, longest: int) -> None:
        assert int(self.lengths.max()) == longest

    def crop(self, lengths: Tensor) -> None:
        self.held.masked_fill_(torch.arange(self.capacity) >= lengths[:, None], 10**6)
        self.lengths = lengths.clone()

    def select_rows(self, rows: list[int]) -> None:
        self.held, self.lengths = self.held[rows], self.lengths[rows]

    def _after(self, last: Tensor) -> Tensor:
        """Logits behind places [rows, n]: [rows, n, vocab]."""
        vocab = len(self.table)
        contexts = self.held.gather(1, last - 1) * vocab + self.held.gather(1, last)
        return self.table.view(-1, vocab).index_select(0, contexts.view(-1)).view(*last.shape, vocab)


def tables(count: int, vocab: int, seed: int, spread: float = 1.5) -> list[Tensor]:
    """`count` models that agree in part, as a draft model and what it drafts for do."""
    noise = torch.Generator().manual_seed(seed)
    shared = spread * torch.randn(vocab, vocab, vocab, generator=noise)
    return [shared + 0.7 * spread * torch.randn(shared.shape, generator=noise) for _ in range(count)]


def enumerate_outputs(
    next_probs: Callable[[int, int], np.ndarray], prompt: tuple[int, int], vocab: int, length: int
) -> dict[tuple[int, ...], float]:
    """The probability of every output of at most `length` tokens that ends with END or is full."""
    found: dict[tuple[int, ...], float] = {}
    table = {context: next_probs(*context) for context in itertools.product(range(vocab), repeat=2)}

    def walk(tokens: tuple[int, ...], context: tuple[int, int], mass: float) -> None:
        if len(tokens) == length or (tokens and tokens[-1] == END):
            found[tokens] = mass
            return
        for token, p in enumerate(table[context]):
            if p > 0:
                walk((*tokens, token), (context[1], token), mass * float(p))

    walk((), prompt, 1.0)
    return found
