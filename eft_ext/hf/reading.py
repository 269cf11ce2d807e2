"""One model reading given tokens, some columns at a time: the logits of a few positions, never of all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from eft_ext.hf.members import AdapterSwitch, Member


class Reader:
    """Feeds one member of the mixture a text in pieces, through a key-value cache as generation does.

    Going by the cache rather than from hidden states to the output embedding keeps what families do to their logits
    on the way (soft caps, scales). A model without a cache is read whole.

    Args:
        member: the model.
        ids, mask: [rows, length], padding on the left.

    Raises:
        ValueError: an id outside the vocabulary, padding on the right, or more tokens than the model can position.
    """

    def __init__(self, member: Member, ids: Tensor, mask: Tensor | None) -> None:
        known = member.model.get_input_embeddings().num_embeddings
        mask = torch.ones_like(ids) if mask is None else mask.to(ids.device).long()
        ids = ids.masked_fill((mask == 0) & ((ids < 0) | (ids >= known)), 0)  # another model's padding
        for token in torch.stack(ids.aminmax()).tolist():
            if not 0 <= token < known:
                raise ValueError(f"{member.name}: token id {token} is outside this model's vocabulary of {known}")
        if bool((mask[:, -1] == 0).any()):
            row = int((mask[:, -1] == 0).nonzero()[0])
            raise ValueError(
                f"attention_mask: expected padding on the left, got row {row} of {member.name} ending in it"
            )
        limit, longest = member.learned_positions(), int(mask.sum(-1).max())
        if limit is not None and longest > limit:
            raise ValueError(
                f"{member.name}: the text needs {longest} positions, but this model has a table of {limit}"
            )
        device = member.device or ids.device
        self._member, self._switch = member, AdapterSwitch(member)
        self._accepted = member.forward_parameters()
        self._ids, self._mask = ids.to(device), mask.to(device)
        self._positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        self._padded = bool((mask == 0).any())
        self._cache: Any = DynamicCache(config=member.config) if "past_key_values" in self._accepted else None
        self._whole: Tensor | None = None
        self._done = 0

    def read(self, columns: int, keep: int) -> Tensor:
        """Reads the next `columns`; the logits after the last `keep` of them, [rows, keep, vocab]."""
        start, end = self._done, self._done + columns
        self._done = end
        if self._cache is None:
            if self._whole is None:
                self._whole = self._forward(0, self._ids.shape[1], {}).logits
            return self._whole[:, end - keep : end]
        inputs: dict[str, Any] = {"past_key_values": self._cache}
        if "logits_to_keep" in self._accepted:
            inputs["logits_to_keep"] = keep
        out = self._forward(start, end, inputs)
        self._cache = out.past_key_values
        logits: Tensor = out.logits
        return logits[:, -keep:]

    def _forward(self, start: int, end: int, inputs: dict[str, Any]) -> Any:
        if "position_ids" in self._accepted:
            inputs["position_ids"] = self._positions[:, start:end]
        with self._switch():
            return self._member.model(
                input_ids=self._ids[:, start:end],
                attention_mask=self._mask[:, :end] if self._padded else None,
                use_cache=self._cache is not None,
                return_dict=True,
                **inputs,
            )
