"""The tokenizers of a mixture's models, which may differ in their special tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from eft_ext.hf.inputs.special_tokens import (
    Ends,
    SpecialToken,
    added_tokens,
    owner_of,
    settled,
    special_tokens_of,
    with_policies,
)
from eft_ext.methods import MixingMethod
from eft_ext.ops.special_tokens import SpecialTokens

Asked = Mapping[str | int, str] | SpecialTokens | None  # special_tokens, as users give it


@dataclass(frozen=True)
class Words:
    """Tokenizers, which turn text into ids and back.

    Attributes:
        tokenizer: decodes what is generated and finds stop strings in it; None where there is none.
        each: encodes a model's text, by the model's name; one object where their special tokens are the same.
        special: ids that are not mixed; None where all are.
        found: ids that do not mean the same to all models, with their policies.
        templates: chat templates of models that have another one than their tokenizer here, None for none.
    """

    tokenizer: Any = None
    each: Mapping[str, Any] = field(default_factory=dict)
    special: SpecialTokens | None = None
    found: tuple[SpecialToken, ...] = ()
    templates: Mapping[str, str | None] = field(default_factory=dict)

    @classmethod
    def one(cls, tokenizer: Any, method: MixingMethod, asked: Asked = None) -> Words:
        """The same tokenizer for all models. Arguments, and what is raised, as for `joined`."""
        return joined(method, dict.fromkeys(method.models, tokenizer), lambda name: (), asked=asked)

    def with_tokenizer(self, tokenizer: Any) -> Words:
        """Another tokenizer in place of the one that decodes, for the models too that use this one."""
        each = {name: tokenizer if own is self.tokenizer else own for name, own in self.each.items()}
        return replace(self, tokenizer=tokenizer, each=each)

    def asked(self, asked: Mapping[str | int, str] | SpecialTokens, method: MixingMethod) -> Words:
        """The same with other policies. Arguments, and what is raised, as for `joined`."""
        found = with_policies(self.found, asked, method)
        if isinstance(asked, SpecialTokens):
            asked.index_of_owner(method.models)
            return replace(self, special=asked or None, found=found)
        special = settled(found, method)
        if self.special is not None:  # ids that were given as they are, and are in no table, stay
            here, before = {token.id for token in found}, self.special
            own, never = ([i for i in ids if i not in here] for ids in (before.own, before.never))
            new = special or SpecialTokens()
            special = SpecialTokens((*own, *new.own), (*never, *new.never), before.owner) or None
        return replace(self, special=special, found=found)

    def means(self, name: str, token: int) -> bool:
        """True if a token means in the mixture what it means to a model."""
        if self.special is None or self.special.means(name, token):
            return True
        here = next((each.tokens for each in self.found if each.id == token), None)
        return here is not None and token in self.special.own and here[name] == here[str(self.special.owner)]


def joined(
    method: MixingMethod,
    each: Mapping[str, Any],
    ends: Ends,
    *,
    asked: Asked = None,
    given: Any = None,
) -> Words:
    """The tokenizers of models that share their ordinary tokens.

    Args:
        each: by the models' names.
        ends: gives the ids that end a model's texts for its name.
        asked: policies by the text or id of a token, over those that its role calls for; or the ids themselves.
        given: decodes, in place of the behaviour's tokenizer.

    Raises:
        TypeError, ValueError: `asked` is no such thing, or names a token that all models share.
    """
    alike: list[Any] = [] if given is None else [given]
    own = {name: _alike(each[name], alike) for name in method.models}
    found = special_tokens_of(method, own, ends)
    lead = own[owner_of(method) or method.models[0]]
    words = Words(lead if given is None else given, own, settled(found, method), found)
    return words if asked is None else words.asked(asked, method)


def _alike(tokenizer: Any, before: list[Any]) -> Any:
    """The first tokenizer that has the same added tokens as this one, which is put behind the others if none has.

    A decoder leaves out those that are special, so that this has to be the same too.
    """
    for other in before:
        if other is tokenizer or (None not in (other, tokenizer) and _kinds(other) == _kinds(tokenizer)):
            return other
    before.append(tokenizer)
    return tokenizer


def _kinds(tokenizer: Any) -> dict[int, tuple[str, bool]]:
    """Added tokens by id: the text, and True for a special one."""
    known = getattr(tokenizer, "added_tokens_decoder", {})
    return {i: (text, bool(getattr(known[i], "special", True))) for i, text in added_tokens(tokenizer).items()}


def usual_template(tokenizer: Any) -> str | None:
    """A tokenizer's chat template; of several that have names, the one for chats without tools."""
    found = getattr(tokenizer, "chat_template", None)
    return found.get("default") if isinstance(found, Mapping) else found


def with_templates(words: Words, own: Mapping[str, str | None]) -> Words:
    """The tokenizers, beside them the chat templates of those models that have another one than theirs here."""
    return replace(words, templates={n: one for n, one in own.items() if one != usual_template(words.each[n])})
