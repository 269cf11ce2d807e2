"""Writing a checkpoint of models that are in memory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from eft_ext.config import MODULE, EmulatedConfig, check_names
from eft_ext.hf.adapters import is_peft
from eft_ext.hf.inputs.arguments import ends_of
from eft_ext.hf.inputs.words import Words
from eft_ext.hf.members import Member
from eft_ext.methods import MixingMethod

_LOADED = ("is_local", "local_files_only")  # a tokenizer writes from where it was loaded
_TOKENIZERS = "tokenizers"  # a folder, for those of single models
_STUB = """\
from eft_ext import EmulatedConfig, EmulatedForCausalLM  # pip install eft_ext

__all__ = ["EmulatedConfig", "EmulatedForCausalLM"]
"""


def described(
    members: Sequence[Any],
    method: MixingMethod,
    weights: Mapping[str, Any] | None = None,
    own: GenerationConfig | None = None,
    words: Words | None = None,
) -> tuple[EmulatedConfig, GenerationConfig]:
    """The configuration and the generation settings of models as one.

    Args:
        members: `Member`s, or what has the name and the configurations of one.
        weights: where each model's weights are, as for `EmulatedConfig`.
        own: the settings; the first model's unless given. The end-of-text tokens are those of all that may end a text.
        words: the models' tokenizers, by which a text may end otherwise; only named here.

    Raises:
        ValueError: a method that JSON cannot hold, or names that are taken.
    """
    lead = members[0].model
    settings = GenerationConfig.from_dict((lead.generation_config if own is None else own).to_dict())
    words = Words() if words is None else words
    ends = ends_of(tuple(members), method.ending, words.means)
    settings.eos_token_id = ends[0] if len(ends) == 1 else ends or None
    if settings.pad_token_id is None:
        others = (getattr(member.model.generation_config, "pad_token_id", None) for member in members)
        settings.pad_token_id = next((pad for pad in others if pad is not None), None)
    ids = {name: getattr(settings, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    check_names([member.name for member in members])
    configs = {member.name: member.model.config for member in members}
    dtype = getattr(lead, "dtype", None) or lead.config.dtype
    special = method.special_tokens if words.special is None else words.special
    folders = {name: folder for name, (folder, _) in _apart(words).items()}
    values: dict[str, Any] = {"special_tokens": special, "tokenizers": folders, "dtype": dtype, **ids, **configs}
    if words.templates:
        values["chat_templates"] = dict(words.templates)
    return EmulatedConfig(method, weights, **values), settings


def _apart(words: Words) -> dict[str, tuple[str, Any]]:
    """Models with another tokenizer than that of the whole: its folder, named by the first that has it, and itself."""
    first: dict[int, str] = {}
    others = {name: tokenizer for name, tokenizer in words.each.items() if tokenizer is not words.tokenizer}
    return {
        name: (f"{_TOKENIZERS}/{first.setdefault(id(tokenizer), name)}", tokenizer)
        for name, tokenizer in others.items()
    }


def write_around(folder: Path, config: EmulatedConfig, settings: GenerationConfig, words: Words) -> None:
    """Everything of a checkpoint but its models: their names, the settings, tokenizers, the file of the classes."""
    config.save_pretrained(folder)
    (folder / "generation_config.json").write_text(settings.to_json_string())  # unlike theirs, whatever it holds
    (folder / f"{MODULE}.py").write_text(_STUB)
    shutil.rmtree(folder / _TOKENIZERS, ignore_errors=True)  # of what was here before
    for inner, tokenizer in {".": words.tokenizer, **dict(_apart(words).values())}.items():
        if tokenizer is not None:
            _write_tokenizer(folder / inner, tokenizer)


def _write_tokenizer(folder: Path, tokenizer: Any) -> None:
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    about = {key: value for key, value in json.loads(file.read_text()).items() if key not in _LOADED}
    file.write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n")


def save(
    members: tuple[Member, ...],
    method: MixingMethod,
    words: Words,
    folder: str | os.PathLike[str],
    state_dict: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Writes the models into folders of their own, and what stands around them.

    Args:
        state_dict: of the model whose children the models are, by name; their own weights where it is not given.
        options: of transformers' save_pretrained, for each model.

    Raises:
        ValueError: a path that is a file, or a model that has an adapter over none of the others.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise ValueError(f"save_directory: expected a folder, got the file {target}")
    if state_dict is not None and any(is_peft(member.model) for member in members):
        raise ValueError("state_dict: expected none for models that share their weights with an adapter")
    check_names([member.name for member in members])
    weights: dict[str, dict[str, Any]] = {}
    written: dict[Any, str] = {}
    bases = {id(member.model) for member in members if member.without_adapter}
    for member in members:
        model, key = member.model, (id(member.model), member.without_adapter, member.adapter)
        adapter = is_peft(model) and not member.without_adapter
        if adapter and id(model) not in bases:
            raise ValueError(
                f"{member.name}: expected a model, or an adapter over another of the models, got one that brings its "
                "own; merge_and_unload() gives a whole model"
            )
        if key not in written:
            written[key] = member.name
            inner = target / member.name
            if inner.is_symlink():  # to a model that is not the checkpoint's own
                inner.unlink()
            inner.mkdir(parents=True, exist_ok=True)
            for stale in inner.glob("adapter_*"):
                stale.unlink()
            if adapter:
                _save_adapter(member, inner)
            else:
                own = _weights_of(member, state_dict)
                whole = model.get_base_model() if member.without_adapter else model
                whole.save_pretrained(inner, **({} if own is None else {"state_dict": own}), **options)
        weights[member.name] = {"folder": written[key], **({"adapter": True} if adapter else {})}
    write_around(target, *described(members, method, weights, words=words), words)


def _weights_of(member: Member, state_dict: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The weights to write of a model, None for those that it has; of one under adapters, without these."""
    model = member.model
    if not member.without_adapter:
        prefix = f"{member.name}."
        if state_dict is None:
            return None
        return {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
    prefix = model.base_model.prefix
    found = {}
    for key, value in model.get_base_model().state_dict().items():
        parts = key.split(".")
        if "modules_to_save" in parts or any(part.startswith(prefix) for part in parts):
            continue
        found[".".join(part for part in parts if part not in ("base_layer", "original_module"))] = value
    return found


def _save_adapter(member: Member, folder: Path) -> None:
    """The one adapter that a member runs with; peft gives each but "default" a folder of its own."""
    model = member.model
    name = member.adapter or model.active_adapter
    model.save_pretrained(folder, selected_adapters=[name])
    inner = folder / name
    if name != "default" and inner.is_dir():
        for file in inner.iterdir():
            file.replace(folder / file.name)
        shutil.rmtree(inner)
