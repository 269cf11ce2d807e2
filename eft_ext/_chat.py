"""Chats as text: by a chat template, or as a transcript."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from eft_ext._text import checked

Chat = Sequence[Mapping[str, Any]]  # messages, {"role": ..., "content": ...}
STOPS = ("\nUser:", "\nAssistant:")  # by which a transcript goes on behind an answer
_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>\s*\Z")
_PROBE = "eft-5d1c70"  # a text that no template and no message has
_BETWEEN = "\n\n"  # a system message and the first user's text, where they are one


def messages(value: Any, where: str, key: str, wanted: str) -> Chat:
    """The messages of a data set's line, each a role and a text.

    Raises:
        ValueError: they are none; the message names where, the key, and what was wanted.
    """
    if not isinstance(value, list | tuple) or not value:
        got = "an empty list" if value == [] else type(value).__name__
        raise ValueError(f"{where}, key '{key}': expected {wanted}, got {got}")
    for i, message in enumerate(value):
        if not isinstance(message, Mapping):
            raise ValueError(f"{where}, key '{key}[{i}]': expected a message, got {type(message).__name__}")
        for part in ("role", "content"):
            if not isinstance(message.get(part), str):
                got = type(message[part]).__name__ if part in message else "none"
                raise ValueError(f"{where}, key '{key}[{i}].{part}': expected a text, got {got}")
    return value


def has_template(tokenizer: Any) -> bool:
    """False for a tokenizer without a chat template; some have a way of their own."""
    return getattr(tokenizer, "chat_template", "its own way") is not None


def is_continued(chat: Chat) -> bool:
    """True where the assistant's message is the last, which its answer goes on from."""
    return chat[-1].get("role") == "assistant"


def content(message: Mapping[str, Any]) -> str:
    """A message's text; of one in parts, that of all of them."""
    given = message.get("content") or ""
    return given if isinstance(given, str) else "".join(part.get("text") or "" for part in given)


def rendered(name: str, tokenizer: Any, chat: Chat, template: str | None = None) -> str:
    """A chat up to where the answer to it begins, special tokens included.

    A last message of the assistant is left open.

    Args:
        name: the argument, for messages.
        template: in place of the tokenizer's own.

    Raises:
        ValueError: beginning with `name`: the tokenizer has no chat template, or one that does not take this chat.
    """
    if template is None and not has_template(tokenizer):
        raise ValueError(f"{name}: expected text, since the tokenizer has no chat template, got a chat")
    own = {} if template is None else {"chat_template": template}
    try:
        go_on = is_continued(chat)
        ends = {"add_generation_prompt": not go_on, **({"continue_final_message": True} if go_on else {})}
        text = tokenizer.apply_chat_template(list(chat), tokenize=False, **ends, **own)
    except ImportError:  # of jinja2
        raise
    except Exception as error:  # whatever a template raises, for a system message or two of one role in a row, say
        wrong = str(error) or type(error).__name__
        raise ValueError(f"{name}: the chat template does not take this chat: {wrong}") from error
    return checked(name, [text])[0]


def rendered_whole(name: str, tokenizer: Any, chat: Chat, template: str | None = None) -> tuple[str, bool]:
    """`rendered`, and True where a system message had to become the beginning of the first user's text.

    That is where the template raises an error or renders the chat without it.

    Raises:
        ValueError: as `rendered` does, or where there is no user's message that could hold it.
    """
    told = content(chat[0]).strip() if chat[0].get("role") == "system" else ""
    text = refused = None
    try:
        text = rendered(name, tokenizer, chat, template)
    except ValueError as error:
        if not told:
            raise
        refused = error
    if text is not None and (not told or _has_place(name, tokenizer, chat, template)):
        return text, False
    user = next((i for i, message in enumerate(chat) if message.get("role") == "user"), None)
    if user is not None:
        whole = {**chat[user], "content": _joined(told, chat[user].get("content") or "")}
        turns = [*chat[1:user], whole, *chat[user + 1 :]]
        try:
            merged = rendered(name, tokenizer, turns, template)
        except ValueError as error:
            refused = refused or error
        else:
            if told in merged:
                return merged, True
    if refused is not None:
        raise refused
    assert text is not None
    if user is None:
        raise ValueError(f"{name}: expected a user's message to hold the system message, which the chat template drops")
    return text, False


def _has_place(name: str, tokenizer: Any, chat: Chat, template: str | None) -> bool:
    """True where a template renders the system message that a chat begins with; its own text may stand elsewhere."""
    try:
        return _PROBE in rendered(name, tokenizer, [{**chat[0], "content": _PROBE}, *chat[1:]], template)
    except ValueError:  # it takes the chat's own message alone
        return True


def _joined(told: str, asked: Any) -> Any:
    if isinstance(asked, str):
        return f"{told}{_BETWEEN}{asked}"
    return [{"type": "text", "text": f"{told}{_BETWEEN}"}, *asked]


def transcript(chat: Chat, seam: str = " ") -> str:
    """A conversation as plain text, which a pre-trained model continues with the assistant's answer.

    A last message of the assistant is left open.

    Args:
        seam: between "Assistant:" and an answer: a space, which is left to the answer's first token, or a line's end.
    """
    parts = []
    for message in chat:
        role, text = str(message.get("role")), content(message)
        if role == "system":
            parts.append(f"{text}\n")
        elif role == "assistant":
            parts.append(f"Assistant:{seam}{text}" if text else f"Assistant:{seam.rstrip(' ')}")
        else:
            parts.append(f"{role.capitalize()}: {text}")
    return "\n".join(parts if is_continued(chat) else [*parts, f"Assistant:{seam.rstrip(' ')}"])


def seam_of(tokenizer: Any, template: str | None = None) -> str:
    """The seam of a transcript beside a chat template: a space where its answers begin with one, else a line's end."""
    asked, said = [{"role": "user", "content": "A"}], {"role": "assistant", "content": "B"}
    try:
        before = without_mark(rendered("", tokenizer, asked, template))
        whole = rendered("", tokenizer, [*asked, said], template)
    except ValueError:  # it takes no such chat
        return " "
    if whole.startswith(before) and len(whole) > len(before):
        return " " if whole[len(before)] == " " else "\n"
    return "\n" if before[-1:].isspace() else " "


def mark_of(text: str) -> str:
    """The mark of a thought, such as "<think>\\n", that the assistant's turn at a text's end has opened, or nothing."""
    found = _THOUGHT.search(text)
    return found[0] if found else ""


def without_mark(text: str) -> str:
    """A text without `mark_of` at its end."""
    return text.removesuffix(mark_of(text))
