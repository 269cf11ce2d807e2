"""A checkpoint in a folder or on the hub: which models it holds, where, and whether they are still the same."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PretrainedConfig

from eft_ext._jsonl import read_object
from eft_ext.config import EmulatedConfig
from eft_ext.hf.inputs.token_ids import check_ids
from eft_ext.hf.loading.hub import file_options, load_config, source_of, why

# Of a configuration: what says nothing of the model.
_ASIDE = {
    *("transformers_version", "_name_or_path", "name_or_path", "architectures", "dtype", "torch_dtype", "auto_map"),
    *("_commit_hash", "use_cache", "quantization_config", "_attn_implementation", "attn_implementation"),
}


@dataclass(frozen=True)
class Place:
    """One model's weights: a folder, or a hub id and what chooses files there."""

    source: str
    options: dict[str, Any]
    adapter: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's own account of itself; no weights have been read."""

    source: str
    config: EmulatedConfig
    places: dict[str, Place]
    options: dict[str, Any]  # that choose a file of the checkpoint

    @property
    def tokenizers(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """The places of the tokenizers of single models, by their folders: a folder or hub id, and options for it.

        Raises ValueError for a folder that is not inside the checkpoint.
        """
        apart: dict[str, str] = self.config.tokenizers or {}
        return {
            folder: _inside("tokenizers", self.source, folder, name, self.options) for name, folder in apart.items()
        }

    @property
    def generation_config(self) -> GenerationConfig | None:
        """The settings of the whole, None where it brings none.

        Raises ValueError for a file that cannot be read.
        """
        file = Path(self.source) / "generation_config.json"
        if os.path.isdir(self.source):
            if not file.is_file():
                return None
            check_ids(str(file), read_object(file))
        try:
            return GenerationConfig.from_pretrained(self.source, **self.options)
        except OSError as error:
            if not os.path.isdir(self.source):
                return None  # there is no such file on the hub
            raise ValueError(f"{file}: {why(error)}") from error

    def check(self) -> None:
        """Raises ValueError where a model's own configuration is not the one that it had when all were packed."""
        for name, place in self.places.items():
            if place.adapter:
                continue
            packed = getattr(self.config, name)
            if not isinstance(packed, PretrainedConfig) and not place.options["trust_remote_code"]:
                raise ValueError(
                    f"{name}: comes with code of its own, which does not run by itself; trust_model_code={name!r} "
                    "lets it run"
                )
            own = load_config(name, place.source, place.options)
            mine, theirs = ((c.to_dict() if isinstance(c, PretrainedConfig) else c) for c in (packed, own))
            # Of a class that comes with the model's code, defaults were not written.
            keys = mine.keys() | theirs.keys() if isinstance(packed, PretrainedConfig) else mine.keys()
            for key in sorted(keys - _ASIDE):
                a, b = mine.get(key), theirs.get(key)
                if a != b:
                    raise ValueError(
                        f"{name}: expected the configuration that {self.source!r} was packed with, {key} {a!r}, got "
                        f"{b!r} in {place.source!r}; pack it again"
                    )


def is_checkpoint(source: Any, options: dict[str, Any]) -> bool:
    """True for a folder or hub id whose config.json says that it is one."""
    if not isinstance(source, (str, os.PathLike)):
        return False
    try:
        found, _ = PretrainedConfig.get_config_dict(os.path.expanduser(os.fspath(source)), **file_options(options))
    except Exception:  # none there, or a broken one: said by whoever loads it
        return False
    return bool(found.get("model_type") == EmulatedConfig.model_type)


def read(
    source: str | os.PathLike[str],
    options: dict[str, Any],
    *,
    config: EmulatedConfig | None = None,
    trusted: str | Sequence[str] | None = None,
) -> Checkpoint:
    """Reads the configuration and finds each model's weights.

    Args:
        options: as for transformers' from_pretrained; those that choose a file are about the checkpoint.
        config: in place of the checkpoint's own.
        trusted: names of the models whose own code may run, separated by blanks where it is one string.

    Raises:
        ValueError: it cannot be read, is of a newer format, or lacks a model's folder.
    """
    text, hub = source_of("checkpoint", source), file_options(options)
    if config is None:
        try:
            config = EmulatedConfig.from_pretrained(text, **hub)
        except ValueError as error:
            raise ValueError(f"{os.path.join(text, 'config.json')}: {error}") from error
        except Exception as error:
            raise ValueError(f"checkpoint: cannot read {text!r}: {why(error)}") from error
    names = config.mixing_method.models
    allowed = trusted.split() if isinstance(trusted, str) else list(trusted or ())
    for name in allowed:
        if name not in names:
            raise ValueError(f"trust_model_code: expected names among {', '.join(names)}, got {name!r}")
    places = {name: _place(text, name, config.weights.get(name), hub, name in allowed) for name in names}
    return Checkpoint(text, config, places, hub)


def _place(checkpoint: str, name: str, given: Any, hub: dict[str, Any], trusted: bool) -> Place:
    """The place of one model's weights. Raises ValueError for an entry that does not say, or a missing folder."""
    trust, where = {"trust_remote_code": trusted}, given if isinstance(given, dict) else {}
    adapter = bool(where.get("adapter"))
    if isinstance(folder := where.get("folder"), str):
        inner, options = _inside("weights", checkpoint, folder, name, hub)
        if not os.path.isdir(checkpoint):
            return Place(inner, {**options, **trust}, adapter)
        file = "adapter_config.json" if adapter else "config.json"
        if not os.path.isfile(os.path.join(inner, file)):
            raise ValueError(f"{name}: expected {file} in {inner}, found none; pack the checkpoint again")
        return Place(inner, trust, adapter)
    if isinstance(where.get("hub"), str):
        if os.path.isabs(where["hub"]) or where["hub"].startswith("."):
            raise ValueError(f"weights: expected a hub id for {name}, got {where['hub']!r}")
        access: dict[str, Any] = {key: hub[key] for key in ("token", "cache_dir", "local_files_only") if key in hub}
        chosen = {key: where[key] for key in ("revision", "subfolder") if where.get(key) is not None}
        return Place(where["hub"], {**access, **chosen, **trust}, adapter)
    raise ValueError(
        f'weights: expected {{"folder": ...}} or {{"hub": ..., "revision": ...}} for {name}, got {given!r}'
    )


def _inside(key: str, checkpoint: str, folder: str, name: str, hub: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A folder of a checkpoint as a source and its options. Raises ValueError for one that is not inside.

    Args:
        key, name: of the configuration, and of the model, for messages.
    """
    if os.path.isabs(folder) or ".." in Path(folder).parts:  # what a stranger wrote stays in what he gave
        raise ValueError(f"{key}: expected a folder inside the checkpoint for {name}, got {folder!r}")
    if os.path.isdir(checkpoint):
        return os.path.join(checkpoint, hub.get("subfolder") or "", folder), {}
    return checkpoint, {**hub, "subfolder": f"{hub['subfolder']}/{folder}" if hub.get("subfolder") else folder}
