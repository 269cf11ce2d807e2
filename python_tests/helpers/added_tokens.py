"""Tokenizers of the 256 bytes that differ in their added tokens."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

FIRST = 256  # ids below are bytes
LARGE = ("<|end|>", "<|im_start|>", "<|im_end|>", "<|box|>", "<|pad|>")
TUNED = ("<eot>", "<User>", "<Assistant>", "<think>", "<|pad|>", "</think>")
BASE = (*LARGE, "<|file|>", "<|extra|>")


def words(added: tuple[str, ...], **roles: str) -> Any:
    """A tokenizer of bytes with these tokens behind them; the first ends a text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(token, special=True) for token in added])
    return PreTrainedTokenizerFast(tokenizer_object=inner, **{"eos_token": added[0], **roles})


def trio() -> dict[str, Any]:
    """The tokenizers of large, tuned and base."""
    return {"large": words(LARGE), "tuned": words(TUNED), "base": words(BASE)}
