"""The types between the engine and those who use it: requests in, tokens out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from torch import Tensor

Prompt = tuple[Tensor, Tensor | None]  # ids and mask [rows, length]


class TokenSource(IntEnum):
    """The origin of a token.

    Attributes:
        step: 0, an ordinary step of the mixture.
        accepted: 1, drafted and accepted.
        resampled: 2, drawn from max(0, p − q) in place of a rejected draft.
        bonus: 3, drawn from the mixture after drafts that were all accepted.
    """

    step = 0
    accepted = 1
    resampled = 2
    bonus = 3


def source_of_token(place: int, accepted: int, drafted: int) -> TokenSource:
    """The origin of the token in this place of a round."""
    if place < accepted:
        return TokenSource.accepted
    return TokenSource.resampled if accepted < drafted else TokenSource.bonus if drafted else TokenSource.step


@dataclass(frozen=True, eq=False)
class Request:
    """One text to generate: its number, the key of its random stream, and how many tokens it may have at most."""

    number: int
    seed: int
    max_new_tokens: int


class TokenOutput(NamedTuple):
    """A token of one request, True if it is the last, and its `TokenSource`."""

    request: int
    token: int
    last: bool
    source: int = 0


class InvalidRow(RuntimeError):
    """A row's logits hold NaN or +inf, or every token is excluded.

    Attributes:
        request: its number.
        tokens: those it drew before.
        logits: of the models, [vocab_k] each; None where the device has gone on.
    """

    def __init__(self, request: int, tokens: list[int], logits: list[Tensor] | None) -> None:
        super().__init__(f"row {request}, new token {len(tokens)}: no token can be drawn")
        self.request, self.tokens, self.logits = request, tokens, logits
