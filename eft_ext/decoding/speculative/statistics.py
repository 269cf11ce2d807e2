"""Counts of a generation with drafts."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Statistics:
    """Counts of a whole generation, kept up to date while it runs.

    Attributes:
        rows: rows of the batch; the first token of each comes from its prompt, without a round.
        rounds: of row and round: a batch of two counts twice.
        drafted: proposals that were decided: none behind a rejection or an end counts.
        accepted: those that were accepted.
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
        """Share of the decided proposals that were accepted; an estimate of 1 - TV(p, q)."""
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
