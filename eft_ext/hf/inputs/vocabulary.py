"""Checks that the models mean the same by the same token id."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from eft_ext.hf.inputs.special_tokens import added_tokens
from eft_ext.hf.inputs.words import Words
from eft_ext.hf.members import Member

# Whitespace, case, digits, accents composed and decomposed, scripts, emoji, code: where tokenizers part ways.
_PROBES = (
    "Hello  world,\tthis is  a test.\n\n  Indented",
    "don't STOP 3.14159 12345678 e\u0301 vs \u00e9 \uff21\ufb01",
    "\u0645\u0631\u062d\u0628\u0627 \u4f60\u597d \u043f\u0440\u0438\u0432\u0435\u0442",
    "\U0001f469\u200d\U0001f680 \u200b",
    "def f(x):\n    return x**2  # \u00b2\r\n",
    "2023 in 1999, the 1980s; 7 42 365 1000 65536 1234567890123456789",
    "2024-02-29 29/02/2024 Feb. 29th, 09:30:15.250 at 5pm",
    "$1,299.99 \u20ac20 \u00a31.50 5% -3 +1 1e-5 0x1F +1 (555) 010-9999",
    "\u0661\u0662\u0663 \u096a\u096b \u00bd \u2167 x\u2083",
    "2023\u5e7410\u67081\u65e5 \u6771\u4eacTower\u3067 \ud55c\uad6d\uc5b4 \u0e44\u0e17\u0e22 abc\u0434\u0435f",
    " a   b        c\n\n\nd \n \n\te\t\tf \r\n\r\n g\u00a0h\u3000i  ",
    "https://example.org:8080/a_b/index.html?q=1&r=x%20y#top me@example.org ~/src/C++ <b>",
    "camelCase HTTPServer parseJSON2 snake_case_x9 kebab-case __init__ v1.2.3",
    "I'LL YOU'RE DON'T it's we've O\u2019Neil 'quoted' \"said\" -- \u2014 ... !!!??",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f44d\U0001f3fd\U0001f1e9\U0001f1ea\u2764\ufe0f",
)
_SHOWN = 5
_ANYWAY = " (check_tokenizers=False, or --any-tokenizers, takes them as they are)"
_ADDED = ("content", "single_word", "lstrip", "rstrip", "normalized")  # `special` tells in decoding only


def compare_tokenizers(name: str, tokenizer: Any, other_name: str, other: Any) -> None:
    """Raise ValueError unless two tokenizers share every ordinary token and cut text alike.

    Added tokens may be others, or have other ids (`special_tokens_of` lists them). Which token ends a text or pads one
    may differ too: only the meaning of the ids matters. The first differences are shown.
    Rules that read otherwise and cut every probe alike are warned of: they may be two spellings of one.
    """
    if tokenizer is other:
        return
    mine, theirs = tokenizer.get_vocab(), other.get_vocab()
    apart: set[str] = set()  # added tokens that only one has at that id
    if mine != theirs:
        special = [set(added_tokens(t).values()) for t in (tokenizer, other)]
        apart = {token for token, _ in mine.items() ^ theirs.items()}
        ordinary = {
            t for t in apart if any(t in v and t not in s for v, s in zip((mine, theirs), special, strict=True))
        }
        changed = sorted((mine.get(t, theirs.get(t)), t) for t in ordinary)
    else:
        changed = []
    if changed:
        shown = "; ".join(
            f"{token!r} is {_id(mine, token)} in {name}, {_id(theirs, token)} in {other_name}"
            for _, token in changed[:_SHOWN]
        )
        raise ValueError(
            f"{other_name}: expected the tokenizer of {name} ({len(mine)} tokens), got one of {len(theirs)} "
            f"tokens that differs in {len(changed)} ordinary ones: {shown}"
            f"{'; ...' if len(changed) > _SHOWN else ''}{_ANYWAY}"
        )
    _compare_cuts(name, tokenizer, other_name, other, _PROBES)
    backends = [getattr(t, "backend_tokenizer", None) for t in (tokenizer, other)]
    if None in backends:
        return  # one that is written in Python has no rules that could be read
    found = [one for one in _changed_tokens(*backends) if one[0] not in apart]
    probes = [probe for token, *_ in found for probe in (f"a {token} b", f"a{token}b", f" {token.lower()}")]
    _compare_cuts(name, tokenizer, other_name, other, probes)
    del found[_SHOWN:]
    for part in ("normalizer", "pre_tokenizer", "model"):
        a, b = (_state(getattr(backend, part)) for backend in backends)
        if a == b:
            continue  # megabytes that need not be read
        a, b = json.loads(a), json.loads(b)
        if part == "model" and (wrong := next(_changed_model(a, b), None)) is not None:
            raise ValueError(
                f"{other_name}: expected to cut text as {name} does, but {_told(name, other_name, *wrong)}{_ANYWAY}"
            )
        found += list(_changed_rules(part, a, b))[:1]
    if found:
        said = "; ".join(_told(name, other_name, *one) for one in found)
        warnings.warn(
            f"{other_name}: its tokenizer cuts every probe as that of {name} does, by rules that read otherwise "
            f"(perhaps two spellings of one): {said}",
            stacklevel=5,
        )


def _compare_cuts(name: str, tokenizer: Any, other_name: str, other: Any, probes: Sequence[str]) -> None:
    if not probes:
        return
    cuts = (t(list(probes), add_special_tokens=False)["input_ids"] for t in (tokenizer, other))
    for probe, a, b in zip(probes, *cuts, strict=True):
        if a != b:
            at = next(i for i in range(max(len(a), len(b))) if a[i : i + 1] != b[i : i + 1])
            pieces = [t.convert_ids_to_tokens(ids[at : at + 3]) for t, ids in ((tokenizer, a), (other, b))]
            raise ValueError(
                f"{other_name}: expected to cut text as {name} does, but {probe!r} differs from token {at}: "
                f"{pieces[0]} in {name}, {pieces[1]} in {other_name}{_ANYWAY}"
            )


def _changed_tokens(mine: Any, theirs: Any) -> Iterator[tuple[str, Any, Any]]:
    """Tokens that are looked for before a text is cut, in one only or in another way."""
    normalizes = any(t.normalizer is not None for t in (mine, theirs))
    keys = _ADDED if normalizes else _ADDED[:-1]
    tokens = [
        {i: {key: getattr(token, key) for key in keys} for i, token in t.get_added_tokens_decoder().items()}
        for t in (mine, theirs)
    ]
    for i in sorted(tokens[0].keys() | tokens[1].keys()):
        a, b = (found.get(i) for found in tokens)
        if a != b:
            yield (a or b or {})["content"], _added(a), _added(b)


def _added(token: dict[str, Any] | None) -> str:
    if token is None:
        return "no added token"
    return ", ".join(["added", *(key for key, value in token.items() if value is True)])


def _state(part: Any) -> bytes:
    """A part of a tokenizer as JSON, as it is pickled."""
    try:
        return b"null" if part is None else bytes(part.__getstate__())
    except Exception:  # one that is written in Python: nothing that could be compared
        return b'"custom"'


def _changed_model(mine: dict[str, Any], theirs: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Differences by which models of one vocabulary cut otherwise: their kind, merges or their order, scores."""
    if mine["type"] != theirs["type"]:
        yield "the tokenizer's kind", mine["type"], theirs["type"]
        return
    for i, (a, b) in enumerate(zip_longest(mine.get("merges", ()), theirs.get("merges", ()))):
        if a != b:
            yield f"merge {i}", a, b
    if mine["type"] == "Unigram":
        others = dict(theirs["vocab"])
        for token, a in mine["vocab"]:
            b = others.get(token, a)  # where it is an added token only
            if not math.isclose(a, b, rel_tol=1e-6):  # one of them may have been kept as float32
                yield f"the score of {token!r}", a, b


def _changed_rules(where: str, a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict) and a.get("type") == b.get("type"):
        for key in sorted(a.keys() | b.keys()):
            if key not in ("vocab", "merges", "trim_offsets"):  # compared before, and of no effect on ids
                yield from _changed_rules(f"{where}.{key}", a.get(key), b.get(key))
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, pair in enumerate(zip(a, b, strict=True)):
            yield from _changed_rules(f"{where}[{i}]", *pair)
    elif a != b:
        yield where, a, b


def _told(name: str, other_name: str, what: str, a: Any, b: Any) -> str:
    texts = (x if isinstance(x, str) else json.dumps(x, ensure_ascii=False) for x in (a, b))
    mine, theirs = (text if len(text) <= 60 else text[:57] + "..." for text in texts)
    return f"{what} is {mine} in {name}, {theirs} in {other_name}"


def _id(vocabulary: dict[str, int], token: str) -> str:
    return str(vocabulary.get(token, "absent"))


def widths_of(members: tuple[Member, ...]) -> dict[str, int]:
    """Columns of each model's logits, padding included, by name."""
    return {member.name: member.vocab_size for member in members}


def check_widths(members: tuple[Member, ...], words: Words) -> dict[str, int]:
    """`widths_of`; raises ValueError if a model has fewer logits than its tokenizer has ids, or than are generated."""
    widths, needed = widths_of(members), {}
    generated = max(words.special.own, default=-1) if words.special is not None else -1
    for name, width in widths.items():
        tokenizer = words.each.get(name)
        if tokenizer is None:
            continue
        if id(tokenizer) not in needed:
            needed[id(tokenizer)] = max(tokenizer.get_vocab().values()) + 1
        if width < needed[id(tokenizer)]:
            raise ValueError(
                f"{name}: expected logits for the tokenizer's {needed[id(tokenizer)]} ids, got {width} columns"
            )
        if width <= generated:
            wanted = f"logits for {generated}, a token of {words.special and words.special.owner}'s own"
            raise ValueError(f"{name}: expected {wanted}, got {width} columns (the policy never does without it)")
    return widths


def warn_softcaps(members: tuple[Member, ...]) -> None:
    """Warn where models bound their logits differently: their difference then is no log-ratio."""
    caps = {member.name: getattr(member.config, "final_logit_softcapping", None) for member in members}
    if len(set(caps.values())) > 1:
        said = ", ".join(f"{name} {cap if cap is not None else 'none'}" for name, cap in caps.items())
        warnings.warn(f"the models bound their logits differently (final_logit_softcapping: {said})", stacklevel=3)
