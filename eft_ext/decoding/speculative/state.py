"""The device memory of a round of speculative decoding; `State` with drafts and a wider ring."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eft_ext.decoding.state import INACTIVE, State
from eft_ext.ops import VerifyResult
from eft_ext.ops.backends import native_loop
from eft_ext.ops.tracing import is_tracing

HEAD = 3  # numbers before the tokens in a row of the ring: how many count, drafts accepted, drafts decided on


class SpeculativeState(State):
    """Rows of a batch between two rounds of at most `max_draft_tokens` drafts.

    The attributes are those of `State`, but for

        ring: [slots, storage, HEAD + max_draft_tokens + 1]; no token counts of a row that had ended before.
        drafts: what the draft model reads, [max_draft_tokens + 1, rows]: the last token, then the drafts.
        proposed: where the draft model's step writes, [rows].
        position: of the random stream of what is drawn next, [rows].
        lengths: how many drafts of each row count, [rows].

    A row that has ended holds no token in any cache, so that whatever it goes on reading fits into its storage.
    """

    def __init__(
        self, rows: int, eos_token_ids: list[int], slots: int, device: torch.device, max_draft_tokens: int
    ) -> None:
        self._drafts = torch.zeros(max_draft_tokens + 1, rows, dtype=torch.int64, device=device)
        self._own = torch.zeros(3, rows, dtype=torch.int64, device=device)
        self._offsets = torch.arange(max_draft_tokens + 1, device=device)
        self._drawn = torch.full((1, rows), INACTIVE, dtype=torch.int64, device=device)  # by the native advance
        super().__init__(rows, eos_token_ids, slots, device)
        self.ring = self.ring.new_zeros(slots, rows, HEAD + max_draft_tokens + 1)

    def use(self, rows: int) -> None:
        super().use(rows)
        self.drafts = self._drafts[:, :rows]
        self.proposed, self.position, self.lengths = (x[:rows] for x in self._own)

    def attach(self, lengths: Sequence[Tensor]) -> None:
        self._held = list(lengths)
        self._prepare(self._drawn, lengths)

    def addresses(self) -> tuple[int, ...]:
        return (*super().addresses(), *(x.data_ptr() for x in (self._drafts, self._own, self._offsets)))

    def end(self, slots: list[int]) -> None:
        super().end(slots)
        self.forget_ended()

    def forget_ended(self) -> None:
        """Rows that have ended hold nothing any more."""
        for x in self._held:
            x[: self.rows].mul_(self.active.to(x.device))

    def begin_round(self, k: int) -> None:
        """A round of k drafts: where the streams stand, and how many drafts leave room for the token that follows."""
        self.drafts[0].copy_(self.tokens[:, 0])
        self.position.copy_(self.steps)
        torch.sub(self.max_new_tokens, self.steps, out=self.lengths)
        self.lengths.sub_(1).clamp_(0, k)

    def add_draft(self, i: int) -> None:
        """Draft number i, which `proposed` holds; the verification finds invalid rows."""
        torch.clamp(self.proposed, min=0, out=self.drafts[i])
        self.position.add_(1)

    def end_round(self, verdict: VerifyResult) -> None:
        """After the verification of the round's drafts."""
        self._advance(verdict.tokens, verdict.num_accepted, read=True)

    def advance(self, *, read: bool = True) -> None:
        """After an ordinary step: a round without drafts."""
        native = read and self.device.type == "cpu" and not self._elsewhere and self.prepared_advance is not None
        if native and not is_tracing():  # a fifth of the time of what follows
            native_loop.run_advance(self.prepared_advance, self.device, self.rows, read)
            drawn, entry = self._drawn[0, : self.rows], self.ring[(int(self.tick) - 1) % len(self.ring), : self.rows]
            torch.ne(drawn, INACTIVE, out=entry[:, 0])
            entry[:, 1:HEAD].zero_()
            entry[:, HEAD].copy_(drawn)
            if not self.active.all():
                self.forget_ended()
            return
        self.lengths.zero_()
        self._advance(self.next_tokens[:, None], torch.zeros_like(self.next_tokens), read=read)

    def _advance(self, tokens: Tensor, accepted: Tensor, *, read: bool) -> None:
        held = [x[: self.rows] for x in self._held] if read else []
        state = (self.tokens, self.steps, self.max_new_tokens, self.active, self.ring, self.tick, self.eos_token_ids)
        advance_round(tokens, accepted, self.lengths, self._offsets[: tokens.shape[1]], *state, held)


def advance_round(
    found: Tensor,
    accepted: Tensor,
    drafted: Tensor,
    offsets: Tensor,
    tokens: Tensor,
    steps: Tensor,
    max_new_tokens: Tensor,
    active: Tensor,
    ring: Tensor,
    tick: Tensor,
    eos_token_ids: Tensor,
    held: Sequence[Tensor],
) -> None:
    """The tokens `found` [rows, k + 1] of a round into the ring, lengths, ended rows and counts, in place.

    Args:
        accepted: how many drafts were accepted; one more token follows them, −1 where none could be drawn.
        drafted: how many counted. No row gets more than its max_new_tokens, which is what bounded them.
        offsets: 0 … k.
        held: tokens that each row holds in each model; the last one drawn is not among them.
    """
    rows, width = found.shape
    ends = ((found[..., None] == eos_token_ids).any(-1) | (found < 0)) & (offsets <= accepted[:, None])
    first = torch.where(ends, offsets, width).amin(1)  # the token that ends the row, `width` where none does
    count = (torch.minimum(first, accepted) + 1) * active
    entry = torch.cat([torch.stack([count, accepted, drafted], 1), found], dim=1)
    ring[:, :rows, : entry.shape[1]].index_copy_(0, tick % ring.shape[0], entry[None])
    steps.add_(count)
    last = found.gather(1, accepted[:, None]).clamp(min=0)
    tokens.copy_(torch.where(active[:, None] > 0, last, tokens))
    active.masked_fill_((first < width) | (steps >= max_new_tokens), 0)
    read = accepted + 1
    for x in held:
        own = x.device
        x.add_(read.to(own)).mul_(active.to(own))
    tick.add_(1)
