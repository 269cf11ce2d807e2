"""The one interface of a model and its cache: generation, speculation and scoring are written on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class CachedModel(Protocol):
    """A causal language model and what it has read of a batch of rows.

    Attributes:
        name: for messages.
        prompt_lengths: tokens of each row of the last prompts that were read.
        limit: tokens that a row may hold, where the model has a table of positions.
        longest: an upper bound, on the host, of the tokens that a row holds.
        lengths: tokens that each row holds, [rows] on the model's device.
        can_crop: rows can forget their last tokens.
        stored_lengths: lengths that whoever calls `run` advances on the device, for all rows that there is room for;
            None where `run` counts by itself.
        bound: positions that attention reads now, which a graph depends on; 0 where nothing fixes them.
        room: tokens that may still be appended before `bound` or the storage has to change, or a table ends.
    """

    name: str
    limit: int | None
    longest: int
    prompt_lengths: list[int]

    @property
    def lengths(self) -> Tensor: ...
    @property
    def can_crop(self) -> bool: ...
    @property
    def stored_lengths(self) -> Tensor | None: ...
    @property
    def bound(self) -> int: ...
    @property
    def room(self) -> int: ...

    def prefill(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Starts from scratch with prompts [rows, length], padded where `mask` (same shape) is 0.

        Returns the logits after each prompt, [rows, vocab].
        """
        ...

    def admit(self, rows: Tensor, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Other prompts into `rows` (indices) of the batch, whose tokens are forgotten; the others are not touched.

        Returns the logits after each of these prompts, [len(rows), vocab].
        """
        ...

    def forward(self, tokens: Tensor) -> Tensor:
        """Appends `tokens` [rows, n]; returns the logits after each, [rows, n, vocab].

        Raises ValueError where a row would outgrow a table of positions.
        """
        ...

    def select_rows(self, rows: list[int]) -> None:
        """Goes on with these rows only (indices into the present ones), in this order."""
        ...

    def crop(self, lengths: Tensor, longest: int | None = None) -> None:
        """Forgets all but the first `lengths` [rows] tokens of each row, where `can_crop`.

        Args:
            longest: the largest of `lengths` where the caller knows it.
        """
        ...

    def reserve(self, n: int) -> None:
        """Makes room for `n` more tokens in every row; raises ValueError where a table of positions ends."""
        ...

    def set_max_length(self, longest: int) -> None:
        """Tells the host what the longest row holds: before a `run`, or when longer ones have ended."""
        ...

    def run(self, tokens: Tensor, skip: int = 0) -> Tensor:
        """Does what `forward` does but for the host's part, after `reserve` and `set_max_length`.

        Args:
            skip: tokens that were run before these and are not counted in `stored_lengths` yet.
        """
        ...

    def addresses(self) -> tuple[int, ...]:
        """The memory that a `run` reads and writes, where it stays in place from one to the next."""
        ...


class Joint(Protocol):
    """A pass that several models share, since they are one set of weights."""

    @property
    def models(self) -> Sequence[CachedModel]:
        """The models in the order of their rows, for everything but `run`."""
        ...

    def run(self, tokens: Tensor) -> Tensor:
        """`CachedModel.run` of all models on `tokens` [rows, n].

        Returns the logits [rows · models, n, vocab]: those of row r of all models, then of row r + 1.
        """
        ...


def check_limit(name: str, tokens: int, limit: int | None) -> None:
    """Raise ValueError where a row would hold more tokens than the model called `name` has positions for."""
    if limit is not None and tokens > limit:
        raise ValueError(
            f"{name}: the sequence needs {tokens} positions, but this model has a table of {limit}; shorten the prompt "
            "or lower max_new_tokens"
        )
