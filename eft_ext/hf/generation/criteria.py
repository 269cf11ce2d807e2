"""Stopping criteria of transformers: those that the engine knows, and those that look at every token."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from transformers import (
    EosTokenCriteria,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
)

_KNOWN = (EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria)


def copied(criteria: Iterable[StoppingCriteria]) -> StoppingCriteriaList:
    """Criteria for one row: some remember what they have seen of it."""
    return StoppingCriteriaList(map(copy.copy, criteria))


class Criteria:
    """The ends of rows, as the engine takes them.

    Args:
        given: as transformers resolved them.
        prompt_length: of the first model's prompts.
        agreed: makes flags the same in all processes that share the models; None for one process.

    Attributes:
        has_eos: some criterion ends rows by tokens.
        eos_token_ids: tokens that end a row.
        max_new_tokens: of a row, at least 1.
        others: criteria that have to be asked after every token.
    """

    def __init__(
        self, given: StoppingCriteriaList, prompt_length: int, agreed: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        tokens = [c.eos_token_id for c in given if hasattr(c, "eos_token_id")]
        self.has_eos = bool(tokens)
        self.eos_token_ids = sorted({int(token) for own in tokens for token in own.reshape(-1).tolist()})
        limits = [c.max_length - prompt_length for c in given if isinstance(c, MaxLengthCriteria)]
        self.max_new_tokens = max(1, min(limits, default=2**40))
        times = [c.initial_timestamp + c.max_time for c in given if isinstance(c, MaxTimeCriteria)]
        self._deadline = min(times, default=None)
        self.others = StoppingCriteriaList(c for c in given if type(c) not in _KNOWN)
        self._agreed = agreed
        self._of_rows: dict[int, StoppingCriteriaList] = {}

    def timed_out(self, device: torch.device) -> bool:
        """True if it is later than `max_time` allows; by the first process's clock where several generate together."""
        if self._deadline is None:
            return False
        over = time.time() > self._deadline
        return over if self._agreed is None else bool(self._agreed(torch.tensor([over], device=device)))

    def ended(self, ids: Tensor, scores: tuple[Tensor, ...] | None) -> list[bool]:
        """Asks `others` which rows of `ids` [rows, length] have ended."""
        over = self.others(ids, scores)
        return list((over if self._agreed is None else self._agreed(over)).tolist())

    def ended_rows(self, texts: Mapping[int, Tensor]) -> list[int]:
        """Asks `others` about single rows, by number, as if each were generated alone. Returns those that have ended.

        Args:
            texts: ids [length] of each row, without padding.
        """
        if not texts:
            return []
        found = [self._of_rows.setdefault(row, copied(self.others))(ids[None], None) for row, ids in texts.items()]
        over = torch.cat(found)
        flags = (over if self._agreed is None else self._agreed(over)).tolist()
        ended = [row for row, flag in zip(texts, flags, strict=True) if flag]
        for row in ended:
            del self._of_rows[row]
        return ended
