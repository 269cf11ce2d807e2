"""Counts of a generation with drafts."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Statistics:
    """Counts of a whole generation, kept up to date while it runs.

    Attributes:
        rows: rows of the batch; the first token of each comes from its prompt, without a round.
        rounds: rounds summed over rows (a batch of two counts two).
        drafted: drafts that were checked; those after a rejection or an end are not.
        accepted: drafts that were accepted.
        emitted: generated tokens.
        draft_lengths: the number of drafts of each round.
    """

    rows: int = 0
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    emitted: int = 0
    draft_lengths: list[int] = field(default_factory=list)

    @property
    def acceptance(self) -> float:
        """Share of the checked drafts that were accepted; an estimate of 1 − TV(p, q). NaN before any."""
        return self.accepted / self.drafted if self.drafted else float("nan")

    @property
    def tokens_per_round(self) -> float:
        """Tokens that a row gains in a round, on average; NaN before any."""
        return (self.emitted - self.rows) / self.rounds if self.rounds else float("nan")

    def add_round(self, rows: int, drafted: int, accepted: int, draft_length: int) -> None:
        """Adds one round of `rows` rows; the caller counts its tokens in `emitted`."""
        self.rounds += rows
        self.drafted += drafted
        self.accepted += accepted
        self.draft_lengths.append(draft_length)
