"""Special tokens that the models of a mixture do not share, and a policy for each (numerics.md §15)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eft_ext._text import aligned
from eft_ext.methods import MixingMethod
from eft_ext.ops.special_tokens import SpecialTokens

Ends = Callable[[str], Sequence[int]]
POLICIES = ("mix", "own", "never")
_SHOWN = 30  # rows of a table


@dataclass(frozen=True)
class SpecialToken:
    """An id that does not mean the same to all models.

    Attributes:
        id: the token's.
        tokens: the models' tokens at that id, by name; None where a model has none.
        policy: "mix" its logits as any other's, leave it to its "own" model, or "never" use it.
        why: the policy's reason, in a few words.
    """

    id: int
    tokens: Mapping[str, str | None]
    policy: str
    why: str = ""


def added_tokens(tokenizer: Any) -> dict[int, str]:
    """Texts of the tokens that are looked for before a text is cut, by id."""
    return {i: str(token) for i, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}


def owner_of(method: MixingMethod) -> str | None:
    """The model whose special tokens count: the first behaviour; without one the first model that may end a text."""
    behaving = [name for name in method.ending if name != method.models[0]]
    return next(iter((*behaving, *method.ending)), None)


def special_tokens_of(method: MixingMethod, tokenizers: Mapping[str, Any], ends: Ends) -> tuple[SpecialToken, ...]:
    """The ids that do not mean the same to all models, in order, each with the policy that its roles call for.

    Args:
        tokenizers: each model's, by name.
        ends: gives the ids that end a model's texts for its name; called once for each if there is need.
    """
    owner, apart = owner_of(method), list(_apart(tokenizers))
    own_ends = {name: ends(name) for name in method.models} if apart else {}
    return tuple(SpecialToken(i, tokens, *_policy(i, tokens, own_ends, owner, method)) for i, tokens in apart)


def _apart(tokenizers: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Ids of added tokens that are not the same everywhere."""
    distinct = list({id(tokenizer): tokenizer for tokenizer in tokenizers.values()}.values())
    if len(distinct) < 2:
        return
    added = [added_tokens(tokenizer) for tokenizer in distinct]
    ids = set().union(*added)
    known = [
        {i: token for token, i in tokenizer.get_vocab().items() if i in ids} | own
        for tokenizer, own in zip(distinct, added, strict=True)
    ]
    place = {id(tokenizer): here for tokenizer, here in zip(distinct, known, strict=True)}
    for i in sorted(ids):
        if len({here.get(i) for here in known}) > 1:
            yield i, {name: place[id(tokenizer)].get(i) for name, tokenizer in tokenizers.items()}


def _policy(
    i: int,
    tokens: Mapping[str, str | None],
    ends: Mapping[str, Sequence[int]],
    owner: str | None,
    method: MixingMethod,
) -> tuple[str, str]:
    if all(token is not None and i in ends[name] for name, token in tokens.items()):
        return "mix", "end of text"
    if owner is None:
        return "mix", "no behaviour"
    if tokens[owner] is not None:
        return "own", f"{owner} knows it"
    others = [name for name in method.ending if name not in (owner, method.models[0]) and tokens[name] is not None]
    return "never", f"only {' and '.join(others)} knows it" if others else f"{owner} does not know it"


def with_policies(
    found: Sequence[SpecialToken], asked: Mapping[str | int, str] | SpecialTokens, method: MixingMethod
) -> tuple[SpecialToken, ...]:
    """The tokens that were found, with the policies that are asked for.

    Args:
        asked: policies by the text or id of a token; or the ids themselves, all others being mixed.

    Raises:
        TypeError: `asked` is something else.
        ValueError: no token that was found, no policy, or a model's own token that this model does not know.
    """
    if isinstance(asked, SpecialTokens):
        by_id = dict.fromkeys(asked.own, "own") | dict.fromkeys(asked.never, "never")
        return tuple(replace(token, policy=by_id.get(token.id, "mix"), why="") for token in found)
    if not isinstance(asked, Mapping):
        raise TypeError(f"special_tokens: expected policies by token, or SpecialTokens, got {type(asked).__name__}")
    owner, tokens = owner_of(method), {token.id: token for token in found}
    for key, policy in asked.items():
        token = tokens[_named(key, found, owner)]
        if policy not in POLICIES:
            raise ValueError(f"special_tokens[{key!r}]: expected one of {', '.join(POLICIES)}, got {policy!r}")
        if policy == "own" and (owner is None or token.tokens[owner] is None):
            raise ValueError(f"special_tokens[{key!r}]: expected mix or never, since {owner} has no token {token.id}")
        tokens[token.id] = replace(token, policy=policy, why="as asked")
    return tuple(tokens.values())


def _named(key: str | int, found: Sequence[SpecialToken], owner: str | None) -> int:
    """The id of a token that is named by its text or id; where two models have a text, the owner's counts."""
    ids = [token.id for token in found if token.id == key or (owner is not None and token.tokens[owner] == key)]
    ids = ids or sorted({token.id for token in found if key in token.tokens.values()})
    if len(ids) > 1:
        raise ValueError(f"special_tokens[{key!r}]: expected one token, got those of {', '.join(map(str, ids))}")
    if not ids:
        known = ", ".join(f"{token.id} {_shown(token, owner)}" for token in found[:5]) or "none"
        more = ", ..." * (len(found) > 5)
        raise ValueError(
            f"special_tokens[{key!r}]: expected a special token that differs between the models ({known}{more}), "
            "got another"
        )
    return ids[0]


def _shown(token: SpecialToken, owner: str | None) -> str:
    own = None if owner is None else token.tokens[owner]
    return own if own is not None else next(text for text in token.tokens.values() if text is not None)


def settled(found: Sequence[SpecialToken], method: MixingMethod) -> SpecialTokens | None:
    """The policies as the operations take them; None where all tokens are mixed."""
    own, never = (tuple(token.id for token in found if token.policy == policy) for policy in POLICIES[1:])
    owner = owner_of(method)
    return SpecialTokens(own, never, owner) if owner is not None and (own or never) else None


def told(found: Sequence[SpecialToken]) -> str:
    """The tokens, of which there is at least one, in columns: id, each model's token, the policy with its reason."""
    rows = [("id", *found[0].tokens, "policy")]
    for token in found[:_SHOWN]:
        texts = ("-" if text is None else text for text in token.tokens.values())
        rows.append((str(token.id), *texts, f"{token.policy}: {token.why}" if token.why else token.policy))
    lines = ["special tokens that the models do not share:", *aligned(rows, right=(0,))]
    if len(found) > _SHOWN:
        lines.append(f"... and {len(found) - _SHOWN} more")
    return "\n".join(lines)
