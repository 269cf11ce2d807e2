"""Draws after logits processors of transformers, which are Python: the step is not captured then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eft_ext.decoding.mixture import Mixture
from eft_ext.decoding.sampler import Sampler
from eft_ext.hf.generation.processors import ProcessingPlan
from eft_ext.hf.generation.texts import Texts
from eft_ext.ops import VerifyResult, combine, fused_mix


class ProcessedSampler(Sampler):
    """A `Sampler` that runs processors between the mixture and the draw, and records what it is asked for.

    With drafts a processor sees each row behind each draft, as if the draft had been drawn; proposals are processed
    likewise, so that they are accepted as often. What it returns must follow from ids and scores alone.

    Args:
        plan: processors, and the options of the draw.
        texts: what the rows hold.
        width: columns that processors index: the first model's.
        pad: a row that has ended is certain of it.
        keep_scores, keep_logits: record the processed scores, or the mixture's raw logits, of every step, [rows, width]
            each; not with drafts.

    Attributes:
        scores, logits: what was recorded.
    """

    def __init__(
        self,
        mixture: Mixture,
        plan: ProcessingPlan,
        texts: Texts,
        *,
        width: int,
        pad: int,
        keep_scores: bool = False,
        keep_logits: bool = False,
        **others: Any,
    ) -> None:
        super().__init__(mixture, plan.options, **others)
        self._plan, self._texts, self._width, self._pad = plan, texts, width, pad
        self._keep_scores, self._keep_logits = keep_scores, keep_logits
        self.scores: list[Tensor] = []
        self.logits: list[Tensor] = []
        self._q: list[Tensor] = []  # the scores that this round's drafts were drawn from

    def __call__(
        self, logits: Sequence[Tensor], seeds: Tensor, steps: Tensor, out: Tensor, slots: Tensor | None = None
    ) -> None:
        self.draw(logits, seeds, steps, out, slots)  # in every process, since each keeps its own scores
        if self._once is not None:
            self._once(lambda: None, out)

    def draw(self, logits: Sequence[Tensor], seeds: Tensor, steps: Tensor, out: Tensor, slots: Tensor | None) -> None:
        z = combine(logits, self.mixture.at(steps, slots))
        scores = self._processed(z, record=True)
        if not self._plan.processors:
            super().draw(logits, seeds, steps, out, slots)
            return
        own = {**self.options, "vocab_size": z.shape[1]}
        fused_mix([scores], [1.0], seed=seeds, position=steps, out=out, **own)

    def propose(self, logits: Tensor, drafts: Tensor, seeds: Tensor, positions: Tensor, out: Tensor) -> None:
        if not len(drafts):
            self._q.clear()
        self._q.append(self._processed(logits[:, : self._vocab_size].float(), drafts))
        own = {**self.options, "vocab_size": self._vocab_size}
        fused_mix([self._q[-1]], [1.0], seed=seeds, position=positions, out=out, **own)

    def verify(
        self, drafts: Tensor, logits: Sequence[Tensor], lengths: Tensor, seeds: Tensor, steps: Tensor
    ) -> VerifyResult:
        z = self.combined(logits, steps)
        scores = [self._processed(z[:, i], drafts[:, :i].T) for i in range(z.shape[1])]
        p = torch.stack(scores, dim=1)[..., : z.shape[2]]
        q = torch.stack(self._q, dim=1)[..., : z.shape[2]]
        return self._verified(drafts, q, [p], (1.0,), lengths, seeds, steps)

    def _processed(self, z: Tensor, drafts: Tensor | None = None, *, record: bool = False) -> Tensor:
        """Runs processors on logits [rows in use, vocab], behind `drafts` [n, rows in use]; returns [.., width].

        Rows of different lengths are shown one length after another: processors take one matrix of ids.
        """
        requests = self.mixture.requests(len(z))
        by_length: dict[int, list[int]] = {}
        for place, request in enumerate(requests):
            by_length.setdefault(len(self._texts.tokens[request]), []).append(place)
        result = z.new_empty(len(z), self._width)
        for length, places in by_length.items():
            rows = [requests[place] for place in places]
            ids = self._texts.ids(length)
            if drafts is not None and len(drafts):
                more = ids.new_full((len(ids), len(drafts)), self._pad)
                more[rows] = drafts.T[places].to(more.device, more.dtype)
                ids = torch.cat([ids, more], dim=1)
            full = self._widened(z[places] if len(by_length) > 1 else z, rows).to(ids.device)
            scores = self._plan.processors(ids, full) if self._plan.processors else full
            if record and self._keep_logits:
                self.logits.append(full)
            if record and self._keep_scores:
                self.scores.append(self._plan.warpers(ids, scores))
            result[places] = scores[rows].to(result.device, result.dtype)
        return result

    def _widened(self, z: Tensor, rows: list[int]) -> Tensor:
        """z [some, vocab] as [all rows, width]: nothing beyond vocab, and the other rows certain of their padding."""
        count = len(self._texts.tokens)
        if rows == list(range(count)):
            return torch.nn.functional.pad(z, (0, self._width - z.shape[1]), value=-torch.inf)
        full = z.new_full((count, self._width), -torch.inf)
        full[:, self._pad] = 0.0
        at = torch.tensor(rows, device=z.device)
        full[at] = torch.nn.functional.pad(z, (0, self._width - z.shape[1]), value=-torch.inf)
        return full
