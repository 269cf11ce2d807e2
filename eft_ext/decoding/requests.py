"""The types between the engine and those who use it: jobs in, tokens out, and the draw of a token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor

Prompt = tuple[Tensor, Tensor | None]  # ids and mask [rows, length]


@dataclass(frozen=True, eq=False)
class Request:
    """One row: its number, the key of its random stream, and how many tokens it may have at most."""

    number: int
    seed: int
    budget: int


class TokenOutput(NamedTuple):
    """A token of one job, whether it is the last, and how it came about (`decoding.TokenSource`)."""

    job: int
    token: int
    last: bool
    mark: int = 0


class InvalidRow(RuntimeError):
    """A row's logits hold NaN or +inf, or every token is excluded.

    Attributes:
        job: its number.
        tokens: those it drew before.
        logits: of the models, [vocab_k] each; None where the device has gone on.
    """

    def __init__(self, job: int, tokens: list[int], logits: list[Tensor] | None) -> None:
        super().__init__(f"row {job}, new token {len(tokens)}: no token can be drawn")
        self.job, self.tokens, self.logits = job, tokens, logits


class Draw(Protocol):
    """The draw of a token from the models' logits [rows, vocab_k]; options may differ from row to row.

    Attributes:
        changed: whether it no longer has the options that it was made with.
    """

    changed: bool

    def __call__(
        self, logits: Sequence[Tensor], seeds: Tensor, steps: Tensor, out: Tensor, slots: Tensor | None = None
    ) -> None:
        """Writes tokens [rows] into `out`, −1 for an invalid row.

        Args:
            seeds, steps: key and position of each row's random stream.
            slots: which slots the rows are; the first ones if None.
        """

    def admit(self, slots: list[int], jobs: Sequence[Request]) -> None:
        """Options of the jobs that begin in these slots."""

    def renew(self, options: Any) -> None:
        """Other options for the jobs of the next start."""

    def move(self, source: list[int], target: list[int]) -> None:
        """Options of slots `source` to where `target` says."""
