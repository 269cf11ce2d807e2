"""The origin of the tokens of speculative decoding, one by one and in sum."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum


class TokenSource(IntEnum):
    """The origin of a token."""

    step = 0  # an ordinary step of the mixture
    accepted = 1  # drafted, and stands
    resampled = 2  # drawn from what the draft model gives too little, in place of a rejected draft
    bonus = 3  # drawn from the mixture behind drafts that all stand


def source_of_token(place: int, accepted: int, drafted: int) -> TokenSource:
    """The origin of the token in this place of a round."""
    if place < accepted:
        return TokenSource.accepted
    return TokenSource.resampled if accepted < drafted else TokenSource.bonus if drafted else TokenSource.step


@dataclass
class Statistics:
    """Counts of a whole generation, kept up to date while it runs.

    Attributes:
        rows: rows of the batch; the first token of each comes from its prompt, without a round.
        rounds: of row and round: a batch of two counts twice.
        drafted: proposals that were decided: none behind a rejection or an end counts.
        accepted: those that stand.
        emitted: tokens.
        draft_lengths: k of each round.
    """

    rows: int = 0
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    emitted: int = 0
    draft_lengths: list[int] = field(default_factory=list)

    @property
    def acceptance(self) -> float:
        """Share of the decided proposals that stand; an estimate of 1 - TV(p, q)."""
        return self.accepted / self.drafted if self.drafted else float("nan")

    @property
    def tokens_per_round(self) -> float:
        return (self.emitted - self.rows) / self.rounds if self.rounds else float("nan")

    def add_round(self, rows: int, drafted: int, accepted: int, draft_length: int) -> None:
        """Adds one round of `rows` rows; its tokens are counted by themselves."""
        self.rounds += rows
        self.drafted += drafted
        self.accepted += accepted
        self.draft_lengths.append(draft_length)
