"""One chat as each model of a mixture reads it: by its own chat template, and all of them up to the same place."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from eft_ext._chat import Chat, content, has_template, is_continued, mark_of, rendered_whole, seam_of, transcript
from eft_ext.methods import MixingMethod

FORMS = ("template", "transcript")


class SystemMessageWarning(UserWarning):
    """A model's chat template has no place for a system message, which became part of the first user's text."""


@dataclass(frozen=True)
class Texts:
    """Chats of one model as text.

    Attributes:
        rows: one for each chat.
        special: they hold their special tokens, as a template renders them.
    """

    rows: tuple[str, ...]
    special: bool


@dataclass(frozen=True)
class Templates:
    """The chat templates of the models.

    Attributes:
        tokenizers: of the models by name, in the order in which a template is borrowed from them.
        own: templates of models that have another one than their tokenizer, None for none.
        form: what a model without a template reads: the text of another's "template", or a "transcript".
    """

    tokenizers: Mapping[str, Any]
    own: Mapping[str, str | None] = field(default_factory=dict)
    form: str = FORMS[0]

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"chat: expected {' or '.join(map(repr, FORMS))}, got {self.form!r}")

    def texts(self, chats: Mapping[str, tuple[str, Sequence[Chat]]]) -> dict[str, Texts]:
        """Renders all chats of a call, by model.

        Every text ends where the answer begins, or with the assistant's last message. A mark of a thought that one
        template opens there stands in all of them.

        Args:
            chats: by model, the argument that they were given as and the chats.

        Raises:
            ValueError: beginning with the argument: no messages, no template, or one that does not take a chat.

        Warns:
            SystemMessageWarning: see there.
        """
        for name, (argument, some) in chats.items():
            check_tokenizer(argument, self.tokenizers.get(name))
            for chat in some:
                _check(argument, chat)
        if not chats:
            return {}
        found, merged = self._rendered(chats)
        if any(not kept for name, (_, some) in chats.items() for kept in map(_keeps, found[name].rows, some)):
            chats = {name: (argument, [_trimmed(chat) for chat in some]) for name, (argument, some) in chats.items()}
            found, merged = self._rendered(chats)  # one template strips what it renders: no model reads the blanks
        if merged:
            warnings.warn(
                f"{' and '.join(merged)}: the chat template takes no system message, so that the first user's text "
                "begins with it",
                SystemMessageWarning,
                stacklevel=2,
            )
        return _marked(chats, found)

    def _rendered(self, chats: Mapping[str, tuple[str, Sequence[Chat]]]) -> tuple[dict[str, Texts], list[str]]:
        """Each model's texts, and the models whose templates take no system message."""
        lender, merged = self.lender, []
        found: dict[str, Texts] = {}
        for name, (argument, some) in chats.items():
            if self.transcribes(name):
                seam = " " if lender is None else seam_of(self.tokenizers[lender], self.own.get(lender))
                found[name] = Texts(tuple(transcript(chat, seam) for chat in some), special=False)
                continue
            of = name if self._has(name) else lender
            if of is None:
                wanted = "text, since the tokenizer has no chat template"
                raise ValueError(f"{argument}: expected {wanted}, got a chat (chat='transcript' makes it a text)")
            each = [rendered_whole(argument, self.tokenizers[of], chat, self.own.get(of)) for chat in some]
            found[name] = Texts(tuple(text for text, _ in each), special=True)
            if any(moved for _, moved in each) and of not in merged:
                merged.append(of)
        return found, merged

    def encoded_alike(self, name: str, other: str) -> bool:
        """True where two models encode a text alike."""
        return self.tokenizers.get(name) is self.tokenizers.get(other)

    def alike(self, name: str, other: str) -> bool:
        """True where two models read a chat alike."""
        both = (self.own.get(each, ...) for each in (name, other))
        return self.encoded_alike(name, other) and len(set(both)) == 1

    @property
    def lender(self) -> str | None:
        """The model whose template those without one borrow; None where no model has any."""
        return next(filter(self._has, self.tokenizers), None)

    def transcribes(self, name: str) -> bool:
        """True where a model reads chats as transcripts."""
        return self.form == "transcript" and not self._has(name)

    def _has(self, name: str) -> bool:
        if name in self.own:
            return self.own[name] is not None
        return self.tokenizers[name] is not None and has_template(self.tokenizers[name])


def templates_of(
    method: MixingMethod,
    tokenizers: Mapping[str, Any],
    own: Mapping[str, str | None] | None = None,
    form: str = FORMS[0],
) -> Templates:
    """The models' templates; those of models whose behaviour counts, such as tuned, are borrowed first."""
    return Templates({name: tokenizers[name] for name in _order(method) if name in tokenizers}, own or {}, form)


def _order(method: MixingMethod) -> list[str]:
    behaving = (name for name in method.ending if name != method.models[0])
    return list(dict.fromkeys([*behaving, *method.models]))


def check_tokenizer(name: str, tokenizer: Any) -> None:
    """Raises ValueError where there is none, `name` being the argument of a text."""
    if tokenizer is None:
        raise ValueError(f"{name}: text needs a tokenizer; give one to EmulatedModel, or pass token ids")


def _check(name: str, chat: Any) -> None:
    """Raises ValueError for what is no chat."""
    for message in chat or [None]:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            got = "none" if message is None else type(message).__name__
            raise ValueError(f"{name}: expected messages with a role and a content, got {got}")
        given = message.get("content")
        parts = given if isinstance(given, (list, tuple)) else ()
        if not isinstance(given, (str, list, tuple, type(None))) or not all(isinstance(p, Mapping) for p in parts):
            raise ValueError(f"{name}: expected a content that is text, or its parts, got {given!r}")


def _keeps(text: str, chat: Chat) -> bool:
    """True where a text ends with the last message of the assistant, blanks included."""
    return not is_continued(chat) or text.endswith(content(chat[-1]))


def _trimmed(chat: Chat) -> Chat:
    """A chat without the blanks behind the last message of the assistant."""
    return [*chat[:-1], {**chat[-1], "content": content(chat[-1]).rstrip()}] if is_continued(chat) else chat


def _marked(chats: Mapping[str, tuple[str, Sequence[Chat]]], found: Mapping[str, Texts]) -> dict[str, Texts]:
    """The texts, each with the mark of a thought that one model's opens where the answer to the same row begins."""
    marks: dict[int, str] = {}
    for name, (_, some) in chats.items():
        for row, (text, chat) in enumerate(zip(found[name].rows, some, strict=True)):
            if not is_continued(chat) and (mark := mark_of(text)):
                marks.setdefault(row, mark)

    def marked(row: int, text: str, chat: Chat) -> str:
        return text if is_continued(chat) or mark_of(text) else text + marks.get(row, "")

    return {
        name: Texts(tuple(map(marked, count(), found[name].rows, some)), found[name].special)
        for name, (_, some) in chats.items()
    }
