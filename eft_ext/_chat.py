"""Chats, as their templates render them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eft_ext._text import checked

Chat = Sequence[Mapping[str, Any]]  # messages, {"role": ..., "content": ...}


def rendered(name: str, tokenizer: Any, chat: Chat) -> str:
    """A chat up to where the answer to it begins, special tokens included.

    Raises:
        ValueError: beginning with `name`: the tokenizer has no chat template, or one that does not take this chat.
    """
    if getattr(tokenizer, "chat_template", "its own way") is None:
        raise ValueError(f"{name}: expected text, since the tokenizer has no chat template, got a chat")
    try:
        text = tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=True)
    except ImportError:  # of jinja2
        raise
    except Exception as error:  # whatever a template raises, for a system message or two of one role in a row, say
        wrong = str(error) or type(error).__name__
        raise ValueError(f"{name}: the chat template does not take this chat: {wrong}") from error
    return checked(name, [text])[0]
