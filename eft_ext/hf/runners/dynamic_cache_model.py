"""One model and its KV cache in one generation: a prompt, then token by token, rows leaving as they end."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from eft_ext.decoding import StaticCacheModel
from eft_ext.decoding.static_cache.support import input_table
from eft_ext.hf.adapters import AdapterSwitch
from eft_ext.hf.members import Member, kind_of
from eft_ext.hf.runners.caches import RECURRENT, cache_argument, check_rows, new_cache, rope_turn


class Runner:
    """Feeds one member of the mixture and keeps what belongs to the sequence so far.

    The mask grows in a buffer that doubles, and is not kept at all when no row is padded: transformers
    then builds no mask either.

    Args:
        member: the model.
        use_cache: whether it may keep one.
        trial: nothing is checked or said, since this is how `eft_ext.hf.runners.caches` finds out what a model can do.
    """

    def __init__(self, member: Member, *, use_cache: bool = True, trial: bool = False) -> None:
        self.member, self._trial = member, trial
        accepted = member.forward_parameters()
        self._cached_as = cache_argument(member) if use_cache else None
        self._cached = self._cached_as is not None
        if use_cache and not self._cached and not trial:
            said = f"{kind_of(member)} takes no key-value cache; every step reads all again"
            warnings.warn(f"{member.name}: {said}", stacklevel=2)
        self._takes_positions = "position_ids" in accepted
        self._last_only: dict[str, int] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._limit = member.learned_positions()
        self._switch = AdapterSwitch(member)
        self._cache: Any = new_cache(member) if self._cached else None
        self._turn = rope_turn(member)
        self._turned = False
        self._ids: Tensor | None = None  # [rows, length], kept where nothing is cached or all may have to be read again
        self._positions: Tensor | None = None
        self._mask: Tensor | None = None  # [rows, capacity], of which `_length` columns count
        self._next: Tensor  # [rows, 1], position of the next token
        self._length = 0
        self._longest = 0  # real tokens of the longest row

    def prefill(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Read the prompts, `ids` and `mask` both [rows, length], padded on the left.

        Returns the logits after the last token, [rows, vocab], on the model's output device.

        Raises:
            ValueError: as `checked` does, or more than the model can position.
        """
        if not self._trial:
            ids, mask = checked(self.member, ids, mask)
        ids = ids.to(self.member.device or ids.device)
        device = ids.device
        self._length = ids.shape[1]
        if mask is None or bool((mask == 1).all()):
            positions = torch.arange(self._length, device=device).expand(ids.shape)
            self._longest = self._length
        else:
            mask = mask.to(device, torch.long)
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            self._mask = mask
            self._longest = int(mask.sum(-1).max())
        self._next = positions[:, -1:] + 1
        return self._forward(ids, positions)

    def step(self, tokens: Tensor) -> Tensor:
        """Append `tokens` [rows]; returns the logits after them, [rows, vocab]."""
        ids = tokens.to(self._next.device, non_blocking=True)[:, None]
        positions = self._next
        self._next = positions + 1
        self._length += 1
        self._longest += 1
        if self._mask is not None and self._length > self._mask.shape[1]:
            self._mask = torch.cat([self._mask, torch.ones_like(self._mask)], dim=1)
        return self._forward(ids, positions)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only (indices into the present ones, ascending)."""
        rows = rows.to(self._next.device)
        if self._cache is not None:
            self._cache.reorder_cache(rows)  # unlike batch_select_indices, follows layers to other devices
        if self._mask is not None:
            self._mask = self._mask[rows]
        if self._ids is not None and self._positions is not None:
            self._ids, self._positions = self._ids[rows], self._positions[rows]
        self._next = self._next[rows]
        self._longest = int(self._next.max())

    def _whole(self, ids: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens to read for the logits after `ids`: they alone where the cache holds, else all."""
        new = ids, positions
        if self._ids is not None and self._positions is not None:
            ids, positions = torch.cat([self._ids, ids], dim=1), torch.cat([self._positions, positions], dim=1)
        self._ids, self._positions = ids, positions
        if not self._cached:
            return ids, positions
        turned = self._turn is not None and int(new[1].max()) >= self._turn
        if turned == self._turned:
            return new
        self._turned, self._cache = turned, new_cache(self.member)  # its keys have the other frequencies
        return ids, positions

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        if self._limit is not None and self._longest > self._limit:
            raise ValueError(
                f"{self.member.name}: the sequence needs {self._longest} positions, but this model has a "
                f"table of {self._limit}; shorten the prompt or lower max_new_tokens"
            )
        inputs: dict[str, Any] = {"attention_mask": None if self._mask is None else self._mask[:, : self._length]}
        if self._cached_as == RECURRENT and ids.shape[1] < self._length:
            inputs["attention_mask"] = None  # of the new tokens alone, none of which is padding
        if not self._cached or self._turn is not None:
            ids, positions = self._whole(ids, positions)
        if self._cached_as is not None:
            inputs[self._cached_as] = self._cache
        if self._takes_positions:
            inputs["position_ids"] = positions
        with self._switch():
            out = self.member.model(
                input_ids=ids, use_cache=self._cached, return_dict=True, **inputs, **self._last_only
            )
        if self._cached_as is not None:
            self._cache = getattr(out, self._cached_as, self._cache)  # not every model returns what it was given
        return out.logits[:, -1]


class StaticRunner:
    """A `Runner` on static caches."""

    def __init__(self, feeder: StaticCacheModel, member: Member) -> None:
        self.member, self.feeder = member, feeder

    def prefill(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """See `Runner.prefill`."""
        return self.feeder.prefill(*checked(self.member, ids, mask))

    def step(self, tokens: Tensor) -> Tensor:
        """See `Runner.step`."""
        return self.feeder.forward(tokens[:, None])[:, -1]

    def keep(self, rows: Tensor) -> None:
        """See `Runner.keep`."""
        self.feeder.select_rows(rows.tolist())
        self.feeder.set_max_length(int(self.feeder.lengths.max()))


def checked(member: Member, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A model's prompts [rows, length] with ids that it knows.

    Raises:
        ValueError: an id outside the vocabulary.
    """
    known = input_table(member.model).num_embeddings
    if mask is not None:  # what pads for one model may be no token of another
        ids = ids.masked_fill((mask.to(ids.device) == 0) & ((ids < 0) | (ids >= known)), 0)
    for token in torch.stack(ids.aminmax()).tolist():
        if not 0 <= token < known:
            raise ValueError(f"{member.name}: token id {token} is outside this model's vocabulary of {known}")
    check_rows(member, ids, mask)
    return ids, mask
