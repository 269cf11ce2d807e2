"""The device memory of a round of speculative decoding; `State` with drafts and a wider ring."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eft_ext.decoding.state import State
from eft_ext.ops import VerifyResult

HEAD = 3  # numbers before the tokens in a row of the ring: how many stand, how many were accepted, how many drafted


class SpeculativeState(State):
    """Rows of a batch between two rounds of at most `most` drafts.

    The attributes are those of `State`, but for

        ring: [slots, storage, HEAD + most + 1]; 0 tokens stand of a row that had ended before.
        drafts: what the draft model reads, [most + 1, rows]: the last token, then the proposals.
        proposed: where the draft model's step writes, [rows].
        position: of the random stream of what is drawn next, [rows].
        lengths: how many drafts of each row count, [rows].

    A row that has ended holds no token in any cache, so that whatever it goes on reading fits into its storage.
    """

    def __init__(self, rows: int, ends: list[int], slots: int, device: torch.device, most: int) -> None:
        self._drafts = torch.zeros(most + 1, rows, dtype=torch.int64, device=device)
        self._own = torch.zeros(3, rows, dtype=torch.int64, device=device)
        self._offsets = torch.arange(most + 1, device=device)
        super().__init__(rows, ends, slots, device)
        self.ring = self.ring.new_zeros(slots, rows, HEAD + most + 1)

    def use(self, rows: int) -> None:
        super().use(rows)
        self.drafts = self._drafts[:, :rows]
        self.proposed, self.position, self.lengths = (x[:rows] for x in self._own)

    def attach(self, lengths: Sequence[Tensor]) -> None:
        self._held = list(lengths)

    def addresses(self) -> tuple[int, ...]:
        return (*super().addresses(), *(x.data_ptr() for x in (self._drafts, self._own, self._offsets)))

    def forget_ended(self) -> None:
        """Rows that have ended hold nothing any more."""
        for x in self._held:
            x[: self.rows].mul_(self.alive.to(x.device))

    def begin(self, k: int) -> None:
        """A round of k drafts: where the streams stand, and how many drafts leave room for the token that follows."""
        self.drafts[0].copy_(self.tokens[:, 0])
        self.position.copy_(self.steps)
        torch.sub(self.budgets, self.steps, out=self.lengths)
        self.lengths.sub_(1).clamp_(0, k)

    def take(self, i: int) -> None:
        """Proposal number i, which `proposed` holds; invalid rows are found by the verification."""
        torch.clamp(self.proposed, min=0, out=self.drafts[i])
        self.position.add_(1)

    def end(self, verdict: VerifyResult) -> None:
        """After the verification of the round's drafts."""
        self._tail(verdict.tokens, verdict.num_accepted, self.lengths, fed=True)

    def tail(self, *, fed: bool = True) -> None:
        """After an ordinary step: a round without drafts."""
        self.lengths.zero_()
        self._tail(self.drawn[:, None], torch.zeros_like(self.drawn), self.lengths, fed=fed)

    def _tail(self, tokens: Tensor, accepted: Tensor, drafted: Tensor, *, fed: bool) -> None:
        held = [x[: self.rows] for x in self._held] if fed else []
        state = (self.tokens, self.steps, self.budgets, self.alive, self.ring, self.tick, self.ends)
        round_tail(tokens, accepted, drafted, self._offsets[: tokens.shape[1]], *state, held)


def round_tail(
    found: Tensor,
    accepted: Tensor,
    drafted: Tensor,
    offsets: Tensor,
    tokens: Tensor,
    steps: Tensor,
    budgets: Tensor,
    alive: Tensor,
    ring: Tensor,
    tick: Tensor,
    ends: Tensor,
    held: Sequence[Tensor],
) -> None:
    """The tokens `found` [rows, k + 1] of a round into the ring, lengths, ends and budgets, in place.

    Args:
        accepted: how many drafts stand; one more token follows them, −1 where none could be drawn.
        drafted: how many counted. No row gets more than its budget, which is what bounded them.
        offsets: 0 … k.
        held: tokens that each row holds in each model; the last one drawn is not among them.
    """
    rows, width = found.shape
    closes = ((found[..., None] == ends).any(-1) | (found < 0)) & (offsets <= accepted[:, None])
    first = torch.where(closes, offsets, width).amin(1)  # the token that ends the row, `width` where none does
    stands = (torch.minimum(first, accepted) + 1) * alive
    entry = torch.cat([torch.stack([stands, accepted, drafted], 1), found], dim=1)
    ring[:, :rows, : entry.shape[1]].index_copy_(0, tick % ring.shape[0], entry[None])
    steps.add_(stands)
    last = found.gather(1, accepted[:, None]).clamp(min=0)
    tokens.copy_(torch.where(alive[:, None] > 0, last, tokens))
    alive.masked_fill_((first < width) | (steps >= budgets), 0)
    read = accepted + 1
    for x in held:
        own = x.device
        x.add_(read.to(own)).mul_(alive.to(own))
    tick.add_(1)
