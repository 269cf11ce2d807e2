"""Loading the models of a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from eft_ext.hf.checkpoint.read import Checkpoint
from eft_ext.hf.inputs.words import Asked, Words, joined
from eft_ext.hf.loading.hub import load_tokenizer
from eft_ext.hf.loading.load import load
from eft_ext.hf.loading.tokenizers import given_tokenizer
from eft_ext.methods import MixingMethod
from eft_ext.ops.special_tokens import SpecialTokens


def load_checkpoint(
    found: Checkpoint,
    method: MixingMethod,
    *,
    tokenizer: Any = None,
    special_tokens: Asked = None,
    quiet: bool = False,
    **options: Any,
) -> tuple[dict[str, Any], Words]:
    """The models by name and their tokenizers, as `eft_ext.hf.loading.load` gives them.

    Their tokenizers are not compared again: that was done when they were packed.

    Args:
        special_tokens: as for `joined`, over the policies that were packed.
        options: for each model, or a dictionary by the models' names; those that choose a file are the checkpoint's.

    Raises:
        ValueError: a model that cannot be read, or whose configuration has changed.
    """
    found.check()
    own = {name: value for name, value in options.items() if name not in found.options}
    configs = ((name, getattr(found.config, name)) for name in found.places)
    # transformers' Auto class has put it into the configuration.
    kept = {name: kind for name, c in configs if (kind := getattr(c, "_attn_implementation", None)) is not None}
    if kept:
        own.setdefault("attn_implementation", kept)
    for option in sorted({option for place in found.places.values() for option in place.options}):
        own[option] = {n: place.options[option] for n, place in found.places.items() if option in place.options}
    words = load_words(found, method, tokenizer)
    if special_tokens is not None:
        words = words.asked(special_tokens, method)
    sources = {name: place.source for name, place in found.places.items()}
    return load(method, sources, tokenizer=words, packed=True, quiet=quiet, **own)


def load_words(found: Checkpoint, method: MixingMethod, tokenizer: Any = None) -> Words:
    """The tokenizers of a checkpoint and what its special tokens mean, with another one in place of the first if given.

    Raises ValueError for a tokenizer that cannot be loaded.
    """
    given = tokenizer is not None
    if not given:
        tokenizer = load_tokenizer("checkpoint", found.source, found.options)
    else:
        access = {name: value for name, value in found.options.items() if name not in ("revision", "subfolder")}
        tokenizer = given_tokenizer(tokenizer, access)
    places = found.tokenizers
    loaded = {place: load_tokenizer("tokenizers", source, options) for place, (source, options) in places.items()}
    if gone := next((place for place, own in loaded.items() if own is None), None):
        raise ValueError(f"tokenizers: expected one in {places[gone][0]}, found none; pack the checkpoint again")
    apart: dict[str, str] = found.config.tokenizers or {}
    each = {name: loaded[apart[name]] if name in apart else tokenizer for name in method.models}
    packed = found.config.mixing_special_tokens or SpecialTokens(owner=method.models[0])
    words = joined(method, each, lambda name: (), asked=packed, given=tokenizer)
    return replace(words, templates={} if given else found.config.chat_templates or {})
