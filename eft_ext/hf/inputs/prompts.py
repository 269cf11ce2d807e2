"""Prompts as users write them (text, chats, ids) turned into left-padded token ids with their mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from eft_ext._seam import begun_once
from eft_ext._text import checked
from eft_ext.decoding.padding import left_padded
from eft_ext.hf.inputs.chats import Texts, check_tokenizer


@dataclass(frozen=True)
class Prompt:
    """ids [rows, length] and mask of the same shape (1 = a real token), or None when nothing is padded.

    Attributes:
        texts: of the rows where they came as text; a chat as its template rendered it.
        chat: the texts hold their special tokens.
    """

    ids: Tensor
    mask: Tensor | None
    texts: tuple[str, ...] | None = None
    chat: bool = False

    @property
    def pair(self) -> tuple[Tensor, Tensor | None]:
        return self.ids, self.mask

    @property
    def rows(self) -> list[list[int]]:
        """Each row's tokens without what its mask leaves out."""
        masks = torch.ones_like(self.ids) if self.mask is None else self.mask
        return [ids[real != 0].tolist() for ids, real in zip(self.ids, masks, strict=True)]

    @property
    def last(self) -> Prompt:
        """The last token of each row, of a packed prompt: what a model reads that is told nothing else."""
        return Prompt(self.ids[:, -1:], None)

    @property
    def inputs(self) -> dict[str, Tensor | None]:
        """The prompt as `encode` takes it."""
        return {"input_ids": self.ids, "attention_mask": self.mask}

    def inferred(self, pad: int | None, ends: Sequence[int]) -> Prompt:
        """With the mask that transformers infers where ids come without: padding, unless it also ends texts."""
        if self.mask is not None or pad is None or pad in ends or not bool((self.ids == pad).any()):
            return self
        return replace(self, mask=(self.ids != pad).long())

    def packed(self, name: str) -> Prompt:
        """Padded on the left, wherever the mask had its zeros; raises ValueError for a row that is all padding."""
        ids, mask = left_padded(self.ids, self.mask, name)
        return replace(self, ids=ids, mask=mask)

    def repeat(self, copies: int) -> Prompt:
        """Each row `copies` times in a row, as num_return_sequences does."""
        if copies == 1:
            return self
        mask = self.mask
        return Prompt(
            self.ids.repeat_interleave(copies, 0), None if mask is None else mask.repeat_interleave(copies, 0)
        )


def is_text(value: Any) -> bool:
    """True if `value` is text, a chat, or a list of one of them."""
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    if isinstance(first, (list, tuple)) and first:
        first = first[0]
    return isinstance(first, str) or (isinstance(first, Mapping) and "role" in first)


def chats_in(name: str, value: Any) -> list[Any] | None:
    """The chats of what is one, or a list of them; None for anything else. Raises ValueError for a mixture."""
    if isinstance(value, str) or not is_text(value) or isinstance(value[0], str):
        return None
    if isinstance(value[0], Mapping):
        return [value]
    if not all(isinstance(row, (list, tuple)) for row in value):
        raise ValueError(f"{name}: expected either texts or chats, got a mixture of them")
    return list(value)


def encode(name: str, value: Any, tokenizer: Any, *, pad_token_id: int | None = None) -> Prompt:
    """Encode one model's prompts.

    Args:
        name: the argument, for messages.
        value: text or a list of texts; chats as they were rendered; token ids, as a tensor [rows, length] or [length]
            or as (lists of) lists; or a mapping with input_ids and perhaps attention_mask, such as a tokenizer returns.
        tokenizer: needed for text only.
        pad_token_id: what stands in front of shorter rows; it is masked, so any id will do.

    Raises:
        ValueError: empty, not a prompt, no text (`eft_ext._text`), or text without a tokenizer.
    """
    if isinstance(value, Mapping) and "input_ids" in value:
        prompt = encode(name, value["input_ids"], tokenizer, pad_token_id=pad_token_id)
        mask = value.get("attention_mask")
        return prompt if mask is None else _masked(name, prompt, mask)
    if isinstance(value, Tensor):
        if value.ndim not in (1, 2) or value.numel() == 0 or value.is_floating_point():
            raise ValueError(f"{name}: expected token ids [rows, length], got {value.dtype} {list(value.shape)}")
        return Prompt(value.reshape(-1, value.shape[-1]).long(), None)
    chat = isinstance(value, Texts) and value.special
    texts = value.rows if isinstance(value, Texts) else _texts(name, value, tokenizer) if is_text(value) else None
    if texts is not None:
        rows = [begun_once(tokenizer, t, tokenizer(t, add_special_tokens=not chat)["input_ids"]) for t in texts]
    elif isinstance(value, Sequence) and value and all(isinstance(i, int) for i in value):
        rows = [list(value)]
    elif isinstance(value, Sequence) and value and all(isinstance(row, (Sequence, Tensor)) for row in value):
        rows = [[int(i) for i in row] for row in value]
    else:
        raise ValueError(f"{name}: expected text, a chat or token ids, got {_short(value)}")
    if not all(rows):
        raise ValueError(f"{name}: expected at least one token in every row, got an empty row {rows.index([])}")
    prompt = _pad_left(rows, pad_token_id or 0)
    # Text holds no padding, whatever tokens it is made of; in ids, padding may be inferred.
    mask = torch.ones_like(prompt.ids) if texts is not None and prompt.mask is None else prompt.mask
    return Prompt(prompt.ids, mask, texts, chat)


def _texts(name: str, value: Any, tokenizer: Any) -> tuple[str, ...]:
    check_tokenizer(name, tokenizer)
    rows = [value] if isinstance(value, str) else list(value)
    if not all(isinstance(row, str) for row in rows):
        raise ValueError(f"{name}: expected either texts or chats, got a mixture of them")
    return checked(name, rows)


def _masked(name: str, prompt: Prompt, mask: Any) -> Prompt:
    mask = torch.as_tensor(mask, device=prompt.ids.device)
    mask = (mask.reshape(-1, mask.shape[-1]) != 0).long()
    if mask.shape != prompt.ids.shape:
        raise ValueError(f"{name}: attention_mask is {list(mask.shape)}, input_ids {list(prompt.ids.shape)}")
    return Prompt(prompt.ids, mask)


def _pad_left(rows: list[list[int]], pad: int) -> Prompt:
    length = max(map(len, rows))
    ids = torch.tensor([[pad] * (length - len(row)) + row for row in rows], device="cpu")
    if all(len(row) == length for row in rows):
        return Prompt(ids, None)
    return Prompt(ids, torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device="cpu"))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
