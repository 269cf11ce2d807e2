"""EFTLogitsProcessor: emulated fine-tuning for decoding loops that run the large model themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from eft_ext.hf.members import members
from eft_ext.hf.mixture import Mixture
from eft_ext.hf.runner import Runner


class EFTLogitsProcessor(LogitsProcessor):
    """Turns the large model's logits into the mixture's; put it before any other processor.

    It runs tuned and base with caches of its own. A call whose ids continue those of the call before reads
    the new ones only; anything else (a new prompt, a rollback, reordered rows) is read from its start, which
    is right but slower. Rows that have ended are still computed, since the loop is not ours. Beam search
    works on log-probabilities and needs `renormalize_logits=True` beside this; it is read anew at every step.

    Args:
        tuned, base: the small models; `tuned` may be a peft.PeftModel over `base`.
        beta, scale, conservative_top_p: as for EmulatedModel; numbers, or one per row.
        attention_mask: [rows, prompt length] of the prompt, where rows are padded on the left: a logits
            processor is not told. A row stands for all the sequences that num_return_sequences or beams make of it.
        pad_token_id: instead of a mask: this token counts as padding where a prompt begins with it.

    Raises:
        ValueError: at a call, where attention_mask does not belong to the prompt (see `reset`), or at
            construction, where weights contradict each other.
    """

    def __init__(
        self,
        tuned: Any,
        base: Any = None,
        *,
        beta: Any = None,
        scale: Any = None,
        conservative_top_p: Any = None,
        attention_mask: Tensor | None = None,
        pad_token_id: int | None = None,
    ) -> None:
        self._members = members(tuned, tuned, base)[1:]
        self._mixture = Mixture.choose(Mixture(), beta, scale, conservative_top_p)
        self._pad_token_id = pad_token_id
        self.reset(attention_mask)

    def reset(self, attention_mask: Tensor | None = None) -> None:
        """Forget the sequence so far; `attention_mask` [rows, prompt length] belongs to the next prompt."""
        self._prompt_mask = attention_mask
        self._seen: Tensor | None = None
        self._runners: tuple[Runner, ...] = ()

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids [rows, length], large's scores [rows, vocab] -> the mixture's, fp32 [rows, vocab]."""
        small = [out.to(scores.device, non_blocking=True) for out in self._forward(input_ids)]
        mixture = self._mixture.per_row(input_ids.shape[0], 1).to(scores.device)
        z = mixture.combine([scores, *small])
        if z.shape[1] == scores.shape[1]:
            return z
        # Padded columns that the small models lack stay, so that the loop finds the width it expects.
        return torch.nn.functional.pad(z, (0, scores.shape[1] - z.shape[1]), value=-torch.inf)

    def _forward(self, ids: Tensor) -> list[Tensor]:
        seen = self._seen
        self._seen = None  # an exception on the way must not leave half a step behind
        if seen is not None and ids.shape[1] > seen.shape[1] and torch.equal(ids[:, : seen.shape[1]], seen):
            for column in range(seen.shape[1], ids.shape[1]):
                logits = [runner.step(ids[:, column]) for runner in self._runners]
        else:
            self._runners = tuple(Runner(member) for member in self._members)
            mask = self._mask(ids)
            logits = [runner.prefill(ids, mask) for runner in self._runners]
        self._seen = ids.clone()
        return logits

    def _mask(self, ids: Tensor) -> Tensor | None:
        given = self._prompt_mask
        if given is not None:
            if given.ndim == 2 and len(given) and len(ids) % len(given) == 0:  # num_return_sequences repeats each row
                given = given.repeat_interleave(len(ids) // len(given), 0)
            if given.ndim != 2 or given.shape[0] != ids.shape[0] or given.shape[1] > ids.shape[1]:
                raise ValueError(
                    f"attention_mask: expected that of a prompt of [{ids.shape[0]}, up to {ids.shape[1]}] "
                    f"tokens, got {list(given.shape)}; for a new prompt call reset(attention_mask)"
                )
            new = given.new_ones(ids.shape[0], ids.shape[1] - given.shape[1])
            return torch.cat([given, new], dim=1).to(ids.device)
        if self._pad_token_id is None:
            return None
        return ((ids != self._pad_token_id).cumsum(-1) > 0).long()
