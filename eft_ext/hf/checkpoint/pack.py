"""Packing: a checkpoint made of models as they lie on disk or on the hub, whose weights are never loaded."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import GenerationConfig

from eft_ext._files import check_folder
from eft_ext.config import EmulatedConfig, check_names
from eft_ext.hf.checkpoint.read import is_checkpoint
from eft_ext.hf.checkpoint.save import described, write_around
from eft_ext.hf.checkpoint.weights import KINDS, put
from eft_ext.hf.inputs.vocabulary import check_widths, warn_softcaps
from eft_ext.hf.inputs.words import Asked
from eft_ext.hf.loading.hub import file_options, load_config
from eft_ext.hf.loading.load import find_models, options_of_models
from eft_ext.hf.loading.tokenizers import find_words
from eft_ext.methods import MixingMethod
from eft_ext.methods.serialized import to_dict


@dataclass(frozen=True)
class _Packed:
    """A model without its weights, in the shape of a `Member`."""

    name: str
    config: Any
    vocab_size: int
    model: Any  # its config and generation_config


def pack(
    folder: str | os.PathLike[str],
    sources: Mapping[str, Any],
    method: MixingMethod,
    *,
    weights: str = "copy",
    tokenizer: Any = None,
    check_tokenizers: bool = True,
    special_tokens: Asked = None,
    settings_from: str | None = None,
    overwrite: bool = False,
    progress: bool = False,
    **options: Any,
) -> EmulatedConfig:
    """Makes a folder that holds several models and the method that makes them one.

    It makes the same checks as loading: tokenizers, the widths of the models' logits, soft caps.

    Args:
        folder: the checkpoint's folder, made whole or not at all.
        sources: hub ids or folders by the models' names, as for `EmulatedModel.from_pretrained`.
        method: how they are mixed; its parameters are numbers.
        weights: "copy" them into the checkpoint, "link" to local folders, or "reference" hub ids at their current
            revision.
        tokenizer, check_tokenizers, special_tokens: as for `EmulatedModel.from_pretrained`.
        settings_from: the model whose generation_config is taken; the first one unless given. End-of-text tokens
            are always those of all models in the method's `ending`.
        overwrite: replace a checkpoint that is there.
        progress: show a bar on stderr while files are copied.
        options: revision, token, trust_remote_code, ... one for all models, or a dictionary by the models' names.

    Raises:
        ValueError: models that do not fit together or cannot be found, or a folder that is in the way.
    """
    target = Path(folder).expanduser()
    if weights not in KINDS:
        raise ValueError(f"weights: expected one of {', '.join(KINDS)}, got {weights!r}")
    to_dict(method)  # said before anything is read
    check_names(method.models)
    _check_target(target, overwrite)
    names, each = method.models, options_of_models(method, options)
    if settings_from is not None and settings_from not in names:
        raise ValueError(f"settings_from: expected one of {', '.join(names)}, got {settings_from!r}")
    found, adapters = find_models(method, sources, each)
    for name, source in found.items():
        if os.path.isdir(source) and target.resolve() in (Path(source).resolve(), *Path(source).resolve().parents):
            raise ValueError(f"folder: expected another one than that of {name}, got {target}")
    words = find_words(method, found, each, tokenizer, compare=check_tokenizers, asked=special_tokens)
    members = tuple(
        _packed(name, str(method.adapter_base) if name in adapters else name, found, each) for name in names
    )
    check_widths(members, words)  # type: ignore[arg-type]
    warn_softcaps(members)  # type: ignore[arg-type]
    own = next(m.model.generation_config for m in members if m.name == (settings_from or names[0]))
    with _replacing(target) as partial:
        placed: dict[tuple[str, str], dict[str, Any]] = {}
        where: dict[str, Any] = {}
        for name in names:
            key = (found[name], repr(sorted(each[name].items(), key=str)))
            if key not in placed:
                placed[key] = put(name, found[name], partial, weights, file_options(each[name]), progress=progress)
                placed[key] |= {"adapter": True} if name in adapters else {}
            where[name] = placed[key]
        config, settings = described(members, method, where, own, words)
        write_around(partial, config, settings, words)
    return config


def _packed(name: str, of: str, sources: Mapping[str, str], each: Mapping[str, dict[str, Any]]) -> _Packed:
    """A model's configuration and settings; those of its base, `of`, for an adapter."""
    source, options = sources[of], each[of]
    config = load_config(of, source, options)
    try:
        settings = GenerationConfig.from_pretrained(sources[name], **file_options(each[name]))
    except OSError:  # it brings none
        settings = GenerationConfig.from_model_config(config)
    text = config.get_text_config(decoder=True)
    return _Packed(name, text, text.vocab_size, SimpleNamespace(config=config, generation_config=settings))


def _check_target(target: Path, overwrite: bool) -> None:
    """Raises ValueError for a folder that is in the way, or that cannot be made."""
    check_folder("folder", target)
    if not target.exists() or not any(target.iterdir()):
        return
    if not overwrite:
        raise ValueError(
            f"folder: expected one that is not there, got {target} (overwrite=True, or --overwrite, replaces it)"
        )
    if not is_checkpoint(target, {}):
        raise ValueError(f"folder: expected a checkpoint to replace, got {target}, which is none")


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A new folder that takes the place of `target` once it is whole; where something fails nothing has changed."""
    partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        partial.mkdir(parents=True)
        yield partial
        if target.exists():
            old = partial.with_suffix(".old")
            target.rename(old)
            try:
                partial.rename(target)
            except OSError:
                old.rename(target)
                raise
            shutil.rmtree(old)
        else:
            partial.rename(target)
    except OSError as error:
        if error.filename is not None:
            error.filename = str(error.filename).replace(str(partial), str(target))
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
