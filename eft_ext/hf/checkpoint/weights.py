"""One model's files in a checkpoint: copied, linked, or named by hub id and revision."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, snapshot_download
from tqdm.auto import tqdm

from eft_ext.hf.loading.hub import why

KINDS = ("copy", "link", "reference")
# Of a model's folder: all that loading it reads. Pickled weights only where there are no others.
_FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.py", "*.md")
_PICKLES = ("*.bin", "*.pt")
_OF_TRAINING = ("optimizer", "scheduler", "training_args", "rng_state")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def put(name: str, source: str, folder: Path, how: str, options: dict[str, Any], *, progress: bool) -> dict[str, Any]:
    """Puts a model into `folder`/`name`, or only names it.

    Args:
        source: hub id or folder.
        how: one of `KINDS`.
        options: that choose files on the hub.

    Returns:
        Its entry in `EmulatedConfig.weights`.

    Raises:
        ValueError: a folder is to be referenced, a hub id linked, or files cannot be fetched.
    """
    local, inner = os.path.isdir(source), options.get("subfolder") or ""
    if how == "reference":
        if local:
            raise ValueError(f"weights: expected hub ids to reference, got the folder {source} for {name}; link it")
        entry = {"hub": source, "revision": _commit(name, source, options)}
        return {**entry, "subfolder": inner} if inner else entry
    if how == "link":
        if not local:
            raise ValueError(f"weights: expected folders to link, got the hub id {source!r} for {name}; reference it")
        (folder / name).symlink_to(os.path.realpath(os.path.join(source, inner)), target_is_directory=True)
        return {"folder": name}
    whole = Path(source) if local else _fetched(name, source, options)
    _copy(name, whole / inner, folder / name, progress)
    return {"folder": name}


def _commit(name: str, source: str, options: dict[str, Any]) -> str:
    """The commit that a hub id's revision stands for now; the cache knows it of files that have been fetched."""
    for file in ("config.json", "adapter_config.json"):
        try:
            path = Path(hf_hub_download(source, file, subfolder=options.get("subfolder"), **_hub(options)))
        except Exception as error:
            said = why(error)
            continue
        commit = next((part for part in reversed(path.parts) if _COMMIT.fullmatch(part)), None)
        if commit is not None:
            return commit
    raise ValueError(f"{name}: cannot tell the revision of {source!r}: {said}")


def _fetched(name: str, source: str, options: dict[str, Any]) -> Path:
    inner = options.get("subfolder") or ""
    elsewhere = os.path.join(inner, "*", "*")  # other formats lie in folders, and a pattern's * matches these too
    try:
        for patterns in (_FILES, _PICKLES):
            wanted = [os.path.join(inner, pattern) for pattern in patterns]
            found = snapshot_download(source, allow_patterns=wanted, ignore_patterns=elsewhere, **_hub(options))
            if any((Path(found) / inner).glob("*.safetensors")):
                break
    except Exception as error:
        raise ValueError(f"{name}: cannot fetch {source!r}: {why(error)}") from error
    return Path(found)


def _hub(options: dict[str, Any]) -> dict[str, Any]:
    return {key: options[key] for key in ("revision", "token", "cache_dir", "local_files_only") if key in options}


def _copy(name: str, source: Path, target: Path, progress: bool) -> None:
    files = list(_wanted(source))
    target.mkdir()
    total = sum(file.stat().st_size for file in files)
    with tqdm(total=total, desc=f"copying {name}", unit="B", unit_scale=True, disable=not progress) as bar:
        for file in files:
            shutil.copyfile(file, target / file.name)
            bar.update(file.stat().st_size)


def _wanted(source: Path) -> Iterator[Path]:
    safe = any(source.glob("*.safetensors"))
    for pattern in _FILES if safe else (*_FILES, *_PICKLES):
        for file in sorted(source.glob(pattern)):
            if file.is_file() and not file.name.startswith(_OF_TRAINING):
                yield file
