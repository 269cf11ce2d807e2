"""Prompts and responses as data sets have them: texts, or chat messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from eft_ext._chat import Chat, messages, rendered
from eft_ext._seam import encode_pairs
from eft_ext._text import checked

Pair = tuple[str | Chat, str]  # prompt and response


def as_prompt(value: Any, where: str, key: str) -> str | Chat:
    """A text, or a chat that waits for its answer, as they are.

    Raises:
        ValueError: neither; the message names where and the key.
    """
    if isinstance(value, str):
        return value
    chat = messages(value, where, key, "a text or messages")
    if chat[-1]["role"] == "assistant":
        got = "the assistant's last"
        raise ValueError(f"{where}, key '{key}': expected messages that the assistant is to answer, got {got}")
    return chat


def as_response(value: Any, where: str, key: str) -> str:
    """A text, or that of the one message of the assistant.

    Raises:
        ValueError: neither; the message names where and the key.
    """
    if isinstance(value, str):
        return value
    wanted = "a text or one message of the assistant"
    chat = messages(value, where, key, wanted)
    roles = [message["role"] for message in chat]
    if roles != ["assistant"]:
        raise ValueError(f"{where}, key '{key}': expected {wanted}, got messages of {', '.join(roles)}")
    return str(chat[0]["content"])


def encode(tokenizer: Any, pairs: Iterable[Pair], where: Iterable[str] = ()) -> list[tuple[list[int], list[int]]]:
    """Token ids of prompts and of the responses behind them; a chat has the special tokens of its template alone.

    Args:
        tokenizer: of transformers.
        pairs: (prompt, response); a prompt is a text or a chat.
        where: each pair's place, for messages.

    Raises:
        ValueError: a text that no tokenizer takes, a chat that the tokenizer's template does not.
    """
    pairs = list(pairs)
    names = list(where) or ["pairs"] * len(pairs)
    texts = [(prompt_text(tokenizer, prompt, name), text) for (prompt, text), name in zip(pairs, names, strict=True)]
    for name, pair in zip(names, texts, strict=True):
        checked(name, pair)
    chat = [not isinstance(prompt, str) for prompt, _ in pairs]

    def ids(chats: bool) -> Iterator[tuple[list[int], list[int]]]:
        some = [text for text, is_chat in zip(texts, chat, strict=True) if is_chat == chats]
        return iter(encode_pairs(tokenizer, some, add_special_tokens=not chats))

    each = {chats: ids(chats) for chats in (False, True)}
    return [next(each[is_chat]) for is_chat in chat]


def ending(tokenizer: Any, end: bool) -> list[int]:
    """The end-of-text token that is put behind each response, if it is wanted and the tokenizer has one."""
    return [tokenizer.eos_token_id] if end and tokenizer.eos_token_id is not None else []


def prompt_text(tokenizer: Any, prompt: str | Chat, where: str) -> str:
    """A text as it is, a chat as the tokenizer's template renders it. Raises as `eft_ext._chat.rendered`."""
    return prompt if isinstance(prompt, str) else rendered(where, tokenizer, prompt)
