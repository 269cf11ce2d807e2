"""The engine's draw with drafts: proposals of one model, and the mixture's verdict on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eft_ext.hf.generation.draw import MixtureDraw, _Weighed
from eft_ext.hf.generation.mixture import Mixture
from eft_ext.ops import VerifyResult, fused_verify
from eft_ext.ops.prepared_step import PreparedStep

_ALONE = _Weighed(("draft",), (1.0,), None)


class DraftingDraw(MixtureDraw):
    """A `MixtureDraw` for `SpeculativeEngine`. What `method.set` changes counts from the next generation on.

    Args:
        draft: which of the models proposes.
        width: tokens that it may propose: the least of the models' vocabularies.
        others: as for `MixtureDraw`.
    """

    def __init__(
        self, mixture: Mixture, options: dict[str, Any], slots: int, device: torch.device, *, draft: int, width: int
    ) -> None:
        super().__init__(mixture, options, slots, device)
        self._draft, self._width = draft, width
        self._proposals: dict[int, PreparedStep] = {}  # by rows in use

    def _now(self) -> Mixture:
        return self._mixture

    def propose(self, logits: Tensor, seeds: Tensor, positions: Tensor, out: Tensor) -> None:
        """See `decoding.rounds.Drafting`; seeds, positions and `out` have to stay where they were at the first call."""
        rows = len(seeds)
        if rows not in self._proposals:
            fixed = {"seed": seeds, "position": positions, "out": out, "vocab_size": self._width}
            self._proposals[rows] = PreparedStep(_ALONE, **fixed, **self._options)
        self._proposals[rows]([logits])

    def verify(
        self, drafts: Tensor, logits: Sequence[Tensor], lengths: Tensor, seeds: Tensor, at: Tensor
    ) -> VerifyResult:
        rows = len(seeds)
        now = self._slots.mapped(lambda value: value[:rows])
        own = dict(self._options)
        if now.settings is not None:
            own["conservative_top_p"] = now.settings.top_p
            own["conservative_set"], own["conservative_outside"] = now.settings.set, now.settings.outside
        q = logits[self._draft][:, :-1]
        return fused_verify(drafts, q, logits, now.values, lengths=lengths, seed=seeds, position=at, **own)
