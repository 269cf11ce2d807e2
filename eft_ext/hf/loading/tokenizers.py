"""Finding the tokenizers of a method's models, which have to fit together."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from eft_ext.hf.inputs.arguments import ends_of
from eft_ext.hf.inputs.token_ids import as_list
from eft_ext.hf.inputs.vocabulary import compare_tokenizers
from eft_ext.hf.inputs.words import Asked, Words, joined, usual_template, with_templates
from eft_ext.hf.loading.hub import load_ends, load_tokenizer, source_of
from eft_ext.hf.members import Member, by_model
from eft_ext.methods import MixingMethod


def find_words(
    method: MixingMethod,
    sources: Mapping[str, str],
    each: Mapping[str, dict[str, Any]],
    given: Any,
    *,
    compare: bool,
    asked: Asked = None,
) -> Words:
    """The tokenizers to use, each compared with every other one that comes with a model; None where none does.

    A tokenizer's chat template is that of a model whose behaviour counts, such as tuned, among those that use it, and
    models that have another one keep theirs beside it. A tokenizer that is given keeps its own, for all who use it.

    Args:
        compare: find what differs, and refuse what does not fit; else all models use the first tokenizer, unless
            special tokens are `asked` for.
        asked: as for `joined`.
    """
    found = {name: load_tokenizer(name, source, each[name]) for name, source in sources.items()}
    if given is not None:
        first, chosen = "tokenizer", given_tokenizer(given, next(iter(each.values())))
    else:
        first, chosen = next(((n, t) for n, t in found.items() if t is not None), ("", None))
    if chosen is None:
        warnings.warn("none of the models brings a tokenizer: only token ids can be generated from", stacklevel=4)
        return Words.one(None, method, asked)
    for name, other in found.items():
        if compare and other is not None and name != first:
            compare_tokenizers(first, chosen, name, other)
    templates = {name: usual_template(tokenizer) for name, tokenizer in found.items() if tokenizer is not None}
    under = found.get(str(method.adapter_base))
    own = {name: next(t for t in (tokenizer, under, chosen) if t is not None) for name, tokenizer in found.items()}
    if not compare and asked is None:
        own = dict.fromkeys(found, chosen)
    words = joined(
        method,
        own,
        lambda name: as_list(getattr(own[name], "eos_token_id", None)) + load_ends(sources[name], each[name]),
        asked=asked,
        given=None if given is None else chosen,
    )
    kept = chosen if given is not None and getattr(chosen, "chat_template", None) is not None else None
    behaving = [name for name in method.ending if name != method.models[0]]
    for one in {id(one): one for one in (chosen, *words.each.values())}.values():
        if one is not kept:
            its = [name for name in (*behaving, *found) if words.each[name] is one]
            several = (templates.get(name) for name in (*its, *behaving, *found))
            one.chat_template = next((template for template in several if template is not None), None)
    return with_templates(words, {name: one for name, one in templates.items() if words.each[name] is not kept})


def given_tokenizer(given: Any, options: dict[str, Any]) -> Any:
    """A tokenizer that is given as it is, or as a hub id or folder. Raises ValueError where there is none."""
    if not isinstance(given, (str, os.PathLike)):
        return given
    place = source_of("tokenizer", given)
    found = load_tokenizer("tokenizer", place, options)
    if found is None:
        raise ValueError(f"tokenizer: cannot load {place!r}: found no tokenizer there")
    return found


def given_words(tokenizer: Any, members: Sequence[Member], method: MixingMethod, asked: Asked) -> Words:
    """The tokenizers of models that are given as they are: one for all, or by the models' names.

    Raises:
        ValueError: names that are not the method's, or tokenizers that do not fit together.
    """
    if isinstance(tokenizer, Words):
        return tokenizer
    if not isinstance(tokenizer, Mapping):
        return Words.one(tokenizer, method, asked)
    each = by_model(method, tokenizer)
    if each.keys() != set(method.models):
        raise ValueError(f"tokenizer: expected one for each of {', '.join(method.models)}, got {', '.join(each)}")
    if gone := [name for name, own in each.items() if own is None]:
        raise ValueError(f"tokenizer: expected one for {gone[0]}, got None")
    first, *others = each
    for name in others:
        compare_tokenizers(first, each[first], name, each[name])
    ends = {m.name: [*ends_of((m,), ()), *as_list(getattr(each[m.name], "eos_token_id", None))] for m in members}
    words = joined(method, each, ends.__getitem__, asked=asked)
    return with_templates(words, {name: usual_template(own) for name, own in each.items()})
