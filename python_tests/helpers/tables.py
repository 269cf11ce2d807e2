"""Models that are tables: logits looked up by the last two tokens, so that every output can be enumerated."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

END = 0


UNREAD = 10**6  # in the place of a token that a model must never read


class TableModel:
    """A `CachedModel` that is a table [vocab, vocab, vocab]: the logits behind a row's last two tokens."""

    can_crop, limit, bound = True, None, 0

    def __init__(self, table: Tensor, capacity: int = 64, name: str = "table") -> None:
        self.table, self.capacity, self.name = table, capacity, name
        self.longest = 0
        self.prompt_lengths: list[int] = []

    @property
    def lengths(self) -> Tensor:
        return self.stored_lengths[: self._rows]

    @property
    def room(self) -> int:
        return self.capacity - self.longest

    def prefill(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        self._rows, self.longest = len(ids), 0
        self._held = torch.full((self._rows, self.capacity), UNREAD)
        self.stored_lengths = torch.zeros(self._rows, dtype=torch.int64)
        return self.admit(torch.arange(self._rows), ids, mask)

    def admit(self, rows: Tensor, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        count, length = ids.shape
        lengths = torch.full((count,), length) if mask is None else mask.sum(-1)
        held = torch.full((count, self.capacity), UNREAD)
        held[:, :length] = ids
        for b in range(count if mask is not None else 0):
            held[b] = UNREAD
            held[b, : lengths[b]] = ids[b][mask[b] == 1]
        self._held[rows], self.stored_lengths[rows] = held, lengths
        self.prompt_lengths = lengths.tolist()
        self.longest = max(self.longest, *self.prompt_lengths)
        return self._after(rows, lengths[:, None] - 1)[:, 0]

    def forward(self, tokens: Tensor) -> Tensor:
        n = tokens.shape[1]
        self.reserve(n)
        self.longest += n
        logits = self.run(tokens)
        self.lengths.add_(n)
        return logits

    def run(self, tokens: Tensor, skip: int = 0) -> Tensor:
        at = self.lengths[:, None] + skip + torch.arange(tokens.shape[1])
        assert int(at.max()) < self.longest, "the host did not know that a row may be this long"
        rows = torch.arange(self._rows)
        held = self._held[: self._rows]
        held.masked_fill_(torch.arange(self.capacity) >= at[:, :1], UNREAD)  # what was read and is forgotten
        held.scatter_(1, at, tokens)
        return self._after(rows, at)

    def reserve(self, n: int) -> None:
        assert self.longest + n <= self.capacity

    def set_max_length(self, longest: int) -> None:
        self.longest = longest

    def crop(self, lengths: Tensor, longest: int | None = None) -> None:
        self.lengths.copy_(lengths)
        self.longest = int(lengths.max()) if longest is None else longest

    def select_rows(self, rows: list[int]) -> None:
        for x in (self._held, self.stored_lengths):
            x[: len(rows)] = x[rows]
        self._rows = len(rows)

    def addresses(self) -> tuple[int, ...]:
        return self._held.data_ptr(), self.stored_lengths.data_ptr()

    def _after(self, rows: Tensor, last: Tensor) -> Tensor:
        """Logits behind places [rows, n]: [rows, n, vocab]."""
        vocab, held = len(self.table), self._held[rows]
        before = held.gather(1, (last - 1).clamp(min=0))  # a row that has ended holds nothing
        contexts = before * vocab + held.gather(1, last)
        return self.table.view(-1, vocab).index_select(0, contexts.view(-1)).view(*last.shape, vocab)


def tables(count: int, vocab: int, seed: int, spread: float = 1.5) -> list[Tensor]:
    """`count` models that agree in part, as a draft model and what it drafts for do."""
    noise = torch.Generator().manual_seed(seed)
    shared = spread * torch.randn(vocab, vocab, vocab, generator=noise)
    return [shared + 0.7 * spread * torch.randn(shared.shape, generator=noise) for _ in range(count)]


def enumerate_outputs(
    next_probs: Callable[[int, int, int], np.ndarray], prompt: tuple[int, int], vocab: int, length: int
) -> dict[tuple[int, ...], float]:
    """The probability of every output of at most `length` tokens that ends with END or is full."""
    found: dict[tuple[int, ...], float] = {}
    contexts = itertools.product(range(vocab), range(vocab), range(length))
    table = {context: next_probs(*context) for context in contexts}  # the last two tokens, and the step

    def walk(tokens: tuple[int, ...], context: tuple[int, int], mass: float) -> None:
        if len(tokens) == length or (tokens and tokens[-1] == END):
            found[tokens] = mass
            return
        for token, p in enumerate(table[(*context, len(tokens))]):
            if p > 0:
                walk((*tokens, token), (context[1], token), mass * float(p))

    walk((), prompt, 1.0)
    return found
