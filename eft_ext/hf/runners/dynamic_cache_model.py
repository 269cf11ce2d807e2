"""One model and transformers' own cache of it, whatever its family keeps there; or none at all."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import torch
from torch import Tensor

from eft_ext.decoding.cached_model import check_limit
from eft_ext.decoding.model_facts import forward_parameters, learned_positions
from eft_ext.decoding.padding import left_padded, lengths_of
from eft_ext.hf.members import Member, kind_of
from eft_ext.hf.runners.caches import RECURRENT, cache_argument, new_cache, rope_turn


class DynamicCacheModel:
    """A `CachedModel` on the cache that transformers makes, for any family.

    Rows share one position in the batch, behind padding, so none can forget tokens or be replaced alone. The mask
    grows in a buffer that doubles, and is not kept at all when no row is padded: transformers then builds none either.

    Args:
        member: the model.
        use_cache: it may keep one; otherwise all is read again with every token.
    """

    can_crop = False
    stored_lengths = None
    bound = 0

    def __init__(self, member: Member, *, use_cache: bool = True) -> None:
        self.name, self._member = member.name, member
        accepted = forward_parameters(member.model)
        self._cached_as = cache_argument(member) if use_cache else None
        self._cached = self._cached_as is not None
        if use_cache and not self._cached:
            said = f"{kind_of(member)} takes no key-value cache; every step reads all again"
            warnings.warn(f"{member.name}: {said}", stacklevel=2)
        self._takes_positions = "position_ids" in accepted
        self._keeps_logits = "logits_to_keep" in accepted
        self.limit = learned_positions(member.model)
        self._switch = member.switch()
        self._turn = rope_turn(member)

    def prefill(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `CachedModel.prefill`."""
        return self.read(*left_padded(ids, mask))[:, -1]

    def read(self, ids: Tensor, mask: Tensor | None = None, keep: int = 1) -> Tensor:
        """Starts from scratch with texts [rows, length], padded on the left where `mask` (same shape) is 0.

        They may be the first columns of longer ones, of which a short row has nothing but padding.

        Returns the logits after the last `keep` columns, [rows, keep, vocab].
        """
        ids = ids.to(self._member.device or ids.device)
        if mask is not None:
            mask = None if bool((mask != 0).all()) else mask.to(ids.device, torch.long)
        self.prompt_lengths = lengths_of(ids, mask)
        self.longest = max(self.prompt_lengths)
        check_limit(self.name, self.longest, self.limit)
        self._cache: Any = new_cache(self._member) if self._cached else None
        self._turned = False
        self._text: tuple[Tensor, Tensor] | None = None  # ids and positions, where they may be read again
        self._mask = mask  # [rows, capacity], of which `_columns` count
        self._columns = 0
        self.lengths = ids.new_zeros(len(ids), dtype=torch.long)
        return self._append(ids, mask, keep)

    def admit(self, rows: Tensor, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `CachedModel.admit`: a `prefill` where every row is replaced; anything else takes static caches."""
        order = rows.argsort().to(ids.device)
        if len(rows) < len(self.lengths) or rows.sort().values.tolist() != list(range(len(rows))):
            raise NotImplementedError(f"{self.name}: rows can only be replaced one by one in static caches")
        return self.prefill(ids[order], None if mask is None else mask[order])[rows]

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `CachedModel.forward`. `mask`: of these columns, where the text began with one of its padding."""
        self.reserve(tokens.shape[1])
        self.longest += tokens.shape[1]
        return self._append(tokens, mask, tokens.shape[1])

    def run(self, tokens: Tensor, skip: int = 0) -> Tensor:
        """See `CachedModel.run`. `skip` changes nothing, since what was run is counted here."""
        return self._append(tokens, None, tokens.shape[1])

    def select_rows(self, rows: list[int]) -> None:
        """See `CachedModel.select_rows`."""
        index = torch.tensor(rows, device=self.lengths.device)
        if self._cache is not None:
            self._cache.reorder_cache(index)  # unlike batch_select_indices, follows layers to other devices
        if self._mask is not None:
            self._mask = self._mask[index]
        if self._text is not None:
            ids, positions = self._text
            self._text = ids[index], positions[index]
        self.lengths = self.lengths[index]

    def crop(self, lengths: Tensor, longest: int | None = None) -> None:
        """Not there, see `can_crop`."""
        raise NotImplementedError(f"{self.name}: rows can only forget tokens in static caches")

    @property
    def room(self) -> int:
        """Tokens that may still be appended before a table of positions ends."""
        return sys.maxsize if self.limit is None else self.limit - self.longest

    def reserve(self, n: int) -> None:
        """See `CachedModel.reserve`; a cache grows by itself."""
        check_limit(self.name, self.longest + n, self.limit)

    def set_max_length(self, longest: int) -> None:
        """See `CachedModel.set_max_length`."""
        self.longest = longest

    def addresses(self) -> tuple[int, ...]:
        """Nothing stays in place."""
        return ()

    def _append(self, ids: Tensor, mask: Tensor | None, keep: int) -> Tensor:
        """The logits after the last `keep` of further columns; `mask` is theirs, ones where there is none."""
        ids = ids.to(self.lengths.device, non_blocking=True)
        start, n = self._columns, ids.shape[1]
        self._columns = end = start + n
        if self._mask is None or mask is None:
            mask = None
            positions = self.lengths[:, None] + torch.arange(n, device=ids.device)
            self.lengths = self.lengths + n
        else:
            mask = mask.to(ids.device, torch.long)
            positions = (self.lengths[:, None] + mask.cumsum(-1) - 1).clamp(min=0)
            self.lengths = self.lengths + mask.sum(-1)
        while self._mask is not None and end > self._mask.shape[1]:
            self._mask = torch.cat([self._mask, torch.ones_like(self._mask)], dim=1)
        if self._mask is not None and mask is not None and start:
            self._mask[:, start:end] = mask
        return self._forward(ids, positions, mask, keep)

    def _forward(self, ids: Tensor, positions: Tensor, mask: Tensor | None, keep: int) -> Tensor:
        new = ids.shape[1]
        inputs: dict[str, Any] = {"attention_mask": None if self._mask is None else self._mask[:, : self._columns]}
        if self._cached_as == RECURRENT and new < self._columns:
            inputs["attention_mask"] = mask  # of the new tokens alone
        if not self._cached or self._turn is not None:
            ids, positions = self._again(ids, positions)
        if self._cached_as is not None:
            inputs[self._cached_as] = self._cache
        if self._takes_positions:
            inputs["position_ids"] = positions
        if self._keeps_logits:
            inputs["logits_to_keep"] = keep
        with self._switch():
            out = self._member.model(input_ids=ids, use_cache=self._cached, return_dict=True, **inputs)
        if self._cached_as is not None:
            self._cache = getattr(out, self._cached_as, self._cache)  # not every model returns what it was given
        logits: Tensor = out.logits
        return logits[:, -keep:]

    def _again(self, ids: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens to read for the logits after `ids`: they alone where the cache holds, else all."""
        new = ids, positions
        if self._text is not None:
            ids, positions = (torch.cat(both, dim=1) for both in zip(self._text, new, strict=True))
        self._text = ids, positions
        if not self._cached:
            return self._text
        turned = self._turn is not None and int(new[1].max()) >= self._turn
        if turned == self._turned:
            return new
        self._turned, self._cache = turned, new_cache(self._member)  # its keys have the other frequencies
        return self._text
