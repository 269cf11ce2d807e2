"""Several models on one set of weights, such as adapters and their base, that run in one forward pass.

Their rows lie in one storage side by side: row r of model i of n is row r · n + i. So a pass over the first rows of
all of them is a pass over the first rows of the storage, and the weights are read once for all models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from eft_ext.decoding.static_cache.model import StaticCacheModel
from eft_ext.decoding.static_cache.storage import Storage


class Part(Storage):
    """The rows of one model in the storage of several; their lengths are its own.

    The models start together, the first one first, and keep the same rows.

    Args:
        whole: the storage of all of them.
        place, count: which of them this is, of how many.
    """

    def __init__(self, whole: Storage, place: int, count: int) -> None:
        self._whole, self._place_in, self._count = whole, place, count
        self.sliding = whole.sliding
        self.lengths = torch.empty(0, dtype=torch.int64)
        self.rows = 0

    @property
    def capacity(self) -> int:  # type: ignore[override]
        return self._whole.capacity

    def start(self, stock: Any, lengths: Tensor, capacity: int, length: int | None = None) -> None:
        self.rows = len(lengths)
        if self.rows > len(self.lengths):
            self.lengths = lengths.clone()
        self.lengths[: self.rows] = lengths
        if self._place_in == 0:  # fills the rows of the others too, until they start
            stock.batch_repeat_interleave(self._count)
            self._whole.start(stock, lengths.repeat_interleave(self._count), capacity, length)
            return
        if capacity > self.capacity:
            self.grow(capacity)
        self._whole.admit(self._rows_in_whole(torch.arange(self.rows)), stock, lengths, length)

    def admit(self, rows: Tensor, stock: Any, lengths: Tensor, length: int | None = None) -> None:
        self.lengths[rows.to(self.lengths.device)] = lengths
        self._whole.admit(self._rows_in_whole(rows), stock, lengths, length)

    def select_rows(self, rows: Sequence[int]) -> None:
        self.rows = len(rows)
        order = torch.tensor(rows, device=self.lengths.device)
        self.lengths[: self.rows] = self.lengths[order]
        if self._place_in == 0:  # moves those of the others too
            self._whole.select_rows([row * self._count + i for row in rows for i in range(self._count)])

    def grow(self, tokens: int) -> None:
        self._whole.grow(tokens)

    def bound(self, longest: int) -> int:
        return self._whole.bound(longest)

    def inputs(self, longest: int) -> tuple[Any, ...]:
        raise NotImplementedError("models that share a pass do not run alone")

    def addresses(self) -> tuple[int, ...]:
        return (self.lengths.data_ptr(), *self._whole.addresses())

    def _rows_in_whole(self, rows: Tensor) -> Tensor:
        return rows * self._count + self._place_in


class JointPass:
    """Runs models on one set of weights together.

    Args:
        model: what all of them run.
        names, switches: of each model: for messages, and the context in which it reads prompts alone.
        together: makes the context for one pass over the rows of all of them, given their number.
        capacity: as for `StaticCacheModel`.

    Attributes:
        models: the models and their caches, for everything but `run`.
    """

    def __init__(
        self,
        model: Any,
        names: Sequence[str],
        switches: Sequence[Callable[[], AbstractContextManager[Any]]],
        together: Callable[[int], AbstractContextManager[Any]],
        capacity: int,
    ) -> None:
        first = StaticCacheModel(model, checked=False)
        self._whole, self._forward, self._together = first._storage, first._forward, together
        self.models = [
            StaticCacheModel(
                model,
                name=name,
                capacity=capacity,
                checked=False,
                switch=switch,
                storage=Part(self._whole, i, len(names)),
            )
            for i, (name, switch) in enumerate(zip(names, switches, strict=True))
        ]

    def run(self, tokens: Tensor) -> Tensor:
        """Does what `StaticCacheModel.run` does for all models; all of them read `tokens` [rows, n].

        Returns the logits [rows · models, n, vocab], the models' rows side by side.
        """
        count = len(self.models)
        lengths = torch.stack([model.lengths for model in self.models], dim=1).flatten()
        longest = max(model.longest for model in self.models)
        tokens = tokens.to(lengths.device, non_blocking=True).repeat_interleave(count, dim=0)
        with self._together(len(lengths)):
            return self._forward(tokens, lengths, *self._whole.inputs(longest))
