"""One model reading given tokens, some columns at a time: the logits of a few positions, never of all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eft_ext.hf.adapters import AdapterSwitch
from eft_ext.hf.members import Member
from eft_ext.hf.runners.caches import RECURRENT, cache_argument, new_cache
from eft_ext.hf.runners.dynamic_cache_model import checked


class Reader:
    """Feeds one member of the mixture a text in pieces, through a key-value cache as generation does.

    Going by the cache rather than from hidden states to the output embedding keeps what families do to their logits
    on the way (soft caps, scales). A model without a cache is read whole.

    Args:
        member: the model.
        ids, mask: [rows, length], padding on the left.
        cached: whether it may be read in pieces (see `reads_pieces`).

    Raises:
        ValueError: an id outside the vocabulary.
    """

    def __init__(self, member: Member, ids: Tensor, mask: Tensor | None, *, cached: bool = True) -> None:
        ids, mask = checked(member, ids, torch.ones_like(ids) if mask is None else mask.long())
        assert mask is not None
        device = member.device or ids.device
        self._member, self._switch = member, AdapterSwitch(member)
        self._accepted = member.forward_parameters()
        self._ids, self._mask = ids.to(device), mask.to(device)
        self._positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        self._padded = bool((mask == 0).any())
        self._cached_as = cache_argument(member) if cached else None
        self._cache: Any = new_cache(member) if self._cached_as is not None else None
        self._whole: Tensor | None = None
        self._done = 0

    def read(self, columns: int, keep: int) -> Tensor:
        """Reads the next `columns`; the logits after the last `keep` of them, [rows, keep, vocab]."""
        start, end = self._done, self._done + columns
        self._done = end
        if self._cached_as is None:
            if self._whole is None:
                self._whole = self._forward(0, self._ids.shape[1], {}).logits
            return self._whole[:, end - keep : end]
        inputs: dict[str, Any] = {self._cached_as: self._cache}
        if "logits_to_keep" in self._accepted:
            inputs["logits_to_keep"] = keep
        out = self._forward(start, end, inputs)
        self._cache = getattr(out, self._cached_as, self._cache)
        logits: Tensor = out.logits
        return logits[:, -keep:]

    def _forward(self, start: int, end: int, inputs: dict[str, Any]) -> Any:
        if "position_ids" in self._accepted:
            inputs["position_ids"] = self._positions[:, start:end]
        first = start if self._cached_as == RECURRENT else 0
        with self._switch():
            return self._member.model(
                input_ids=self._ids[:, start:end],
                attention_mask=self._mask[:, first:end] if self._padded else None,
                use_cache=self._cached_as is not None,
                return_dict=True,
                **inputs,
            )
