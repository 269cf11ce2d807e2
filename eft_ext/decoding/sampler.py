"""The draws of a step: a token of the mixture; with drafts a proposal, and the verdict on proposals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from eft_ext.decoding.mixture import Mixture
from eft_ext.decoding.requests import Request
from eft_ext.decoding.row_weights import RowWeights
from eft_ext.ops import VerifyResult, combine, fused_mix, fused_verify
from eft_ext.ops.prepared_step import PreparedStep

_ALONE = RowWeights(("draft",), (1.0,))


class Sampler:
    """Draws from a mixture. Seeds, steps and `out` have to stay where they were at the first call.

    Args:
        mixture: weights of the rows.
        options: temperature and filters, the same for all rows.
        draft_model: index of the model that proposes.
        draft_options: its temperature and filters, where they are not those of `options`.
        vocab_size: tokens that it may propose: the narrowest model's.
        once: runs a draw that writes `out` for all processes that share the models; None for one process.
    """

    def __init__(
        self,
        mixture: Mixture,
        options: dict[str, Any],
        *,
        draft_model: int = 0,
        draft_options: dict[str, Any] | None = None,
        vocab_size: int | None = None,
        once: Callable[[Callable[[], None], Tensor], None] | None = None,
    ) -> None:
        self.mixture, self.options = mixture, options
        self.draft_model, self._draft_options, self._vocab_size = draft_model, draft_options or {}, vocab_size
        self._once = once
        self._steps: dict[int, PreparedStep] = {}  # by rows in use
        self._proposals: dict[int, PreparedStep] = {}
        self._retired: list[Any] = []  # prepared steps whose memory captured graphs still point to

    def __call__(
        self, logits: Sequence[Tensor], seeds: Tensor, steps: Tensor, out: Tensor, slots: Tensor | None = None
    ) -> None:
        """Writes tokens [rows] into `out`, −1 for an invalid row.

        Args:
            logits: of the models, [rows, vocab_k].
            seeds, steps: key and position of each row's random stream.
            slots: which slots the rows are; the first ones if None.
        """
        if self._once is not None:
            self._once(lambda: self.draw(logits, seeds, steps, out, slots), out)
        else:
            self.draw(logits, seeds, steps, out, slots)

    def draw(self, logits: Sequence[Tensor], seeds: Tensor, steps: Tensor, out: Tensor, slots: Tensor | None) -> None:
        """`__call__` in one process."""
        rows, mixture = len(seeds), self.mixture
        if slots is not None or mixture.is_scheduled or mixture.excludes:
            fused_mix(logits, mixture.at(steps, slots), seed=seeds, position=steps, out=out, **self.options)
            return
        if rows not in self._steps:
            fixed = {"seed": seeds, "position": steps, "out": out}
            self._steps[rows] = PreparedStep(mixture.first(rows), **fixed, **self.options)
        self._steps[rows](logits)

    def propose(self, logits: Tensor, drafts: Tensor, seeds: Tensor, positions: Tensor, out: Tensor) -> None:
        """Writes a draft for each row into `out`, by an ordinary step of the draft model alone.

        Args:
            logits: the draft model's, [rows, vocab].
            drafts: those before, [rows, n].
        """
        rows = len(seeds)
        if rows not in self._proposals:
            own = {**self.options, **self._draft_options, "vocab_size": self._vocab_size}
            self._proposals[rows] = PreparedStep(_ALONE, seed=seeds, position=positions, out=out, **own)
        self._proposals[rows]([logits])

    def verify(
        self, drafts: Tensor, logits: Sequence[Tensor], lengths: Tensor, seeds: Tensor, steps: Tensor
    ) -> VerifyResult:
        """Decides on the first `lengths` [rows] of `drafts` [rows, k], given all logits [rows, k + 1, vocab_k]."""
        q = logits[self.draft_model][:, :-1]
        if self.mixture.is_scheduled:
            return self._verified(drafts, q, [self.combined(logits, steps)], (1.0,), lengths, seeds, steps)
        return self._verified(drafts, q, logits, self.mixture.at(steps), lengths, seeds, steps)

    def combined(self, logits: Sequence[Tensor], steps: Tensor) -> Tensor:
        """The mixture's logits [rows, n, vocab] at n steps from each row's `steps` [rows] on."""
        shape = logits[0].shape[:2]
        at = steps[:, None] + torch.arange(shape[1], device=steps.device)
        weights = self.mixture.at(at).with_tensors(torch.flatten)
        return combine([x.flatten(0, 1) for x in logits], weights).unflatten(0, shape)

    def _verified(
        self, drafts: Tensor, q: Tensor, logits: Sequence[Tensor], weights: Any, lengths: Tensor, *draws: Tensor
    ) -> VerifyResult:
        """`fused_verify` with this sampler's options; `draws`: seeds and steps."""
        own = {f"draft_{name}": value for name, value in self._draft_options.items()} | self.options
        return fused_verify(drafts, q, logits, weights, lengths=lengths, seed=draws[0], position=draws[1], **own)

    def sync(self, through: int) -> None:
        """Before a step is launched: see `Mixture.sync`."""
        if self.mixture.sync(through):
            self._retired.append(self._steps)
            self._steps = {}

    def admit(self, slots: list[int], requests: Sequence[Request]) -> None:
        """Requests that begin in these slots."""
        self.mixture.admit(slots, [request.number for request in requests])

    def move(self, source: list[int], target: list[int]) -> None:
        """Rows in slots `source` to where `target` says."""
        self.mixture.move(source, target)
