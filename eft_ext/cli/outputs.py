"""Files and folders that commands write: checked before any work is done for them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eft_ext._files import PICTURES as PICTURES
from eft_ext._files import check_folder, goes_elsewhere
from eft_ext._jsonl import read_object

# Files that say what a saved model is, and the key that they have.
_SAVED = {"config.json": "model_type", "adapter_config.json": "peft_type"}


def writable(
    option: str, path: Path | None, endings: tuple[str, ...] = (), others: Mapping[str, Path | None] | None = None
) -> None:
    """Checks a file that is to be written.

    Args:
        others: what the command reads and writes besides, by option; of a folder, all files in it.

    Raises:
        ValueError: the file could not be made, or is one of the others.
    """
    if path is None:
        return
    if endings and path.suffix not in endings:
        raise ValueError(f"{option}: expected a name ending in {', '.join(endings)}, got {path}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{option}: no such folder: {path.parent}")
    if path.is_dir():
        raise ValueError(f"{option}: expected a file, got the folder {path}")
    if path.exists() and not os.access(path, os.W_OK):
        raise ValueError(f"{option}: expected a file that can be written, got {path}, which is read-only")
    if not goes_elsewhere(path):
        check_folder(option, Path(os.path.realpath(path)).parent)
    for name, other in (others or {}).items():
        if other is not None and _same(path, other):
            raise ValueError(f"{option}: expected another file than {name}, got {path}")
        if other is not None and path.exists() and _holds(other, path):
            raise ValueError(f"{option}: expected a file that is no part of {name}, got {path}")


def fillable(option: str, folder: Path | None, overwrite: bool, others: Mapping[str, Path | None]) -> None:
    """Checks a folder that is to be filled.

    Args:
        overwrite: files of a saved model may be replaced.
        others: what the command reads and writes besides, by option.

    Raises:
        ValueError: it could not be made or written into, holds what may not be replaced, or is one of the others.
    """
    if folder is None:
        return
    check_folder(option, folder)
    for name, other in others.items():
        if other is not None and _same(folder, other):
            raise ValueError(f"{option}: expected another folder than {name}, got {folder}")
        if other is not None and other.is_file() and _holds(folder, other):
            raise ValueError(f"{option}: expected a folder without {name}, got {folder} with {other}")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise ValueError(f"{option}: {folder} is not empty; give --overwrite or another folder")
    if not any(_about(folder / name).get(key) for name, key in _SAVED.items()):
        raise ValueError(f"{option}: expected an empty folder or a saved model, got {folder} with other files")


def models_read(named: Mapping[str, str | Path | None]) -> dict[str, Path]:
    """Folders of the models that a command reads, by option, with those of the bases that adapters name.

    Args:
        named: hub ids or folders, by option, None where not given; the embedded models are read where none is.
    """
    from eft_ext.demo import MODELS, model_path

    given = {option: Path(os.path.expanduser(source)) for option, source in named.items() if source is not None}
    if not given:
        folders = {f"the embedded {name}": model_path(name) for name in MODELS}
        return {"the embedded models": model_path(MODELS[0]).parent, **folders}
    bases = {option: _about(folder / "adapter_config.json") for option, folder in given.items()}
    under = {f"the base of {option}": about.get("base_model_name_or_path") for option, about in bases.items()}
    return given | {option: Path(os.path.expanduser(base)) for option, base in under.items() if isinstance(base, str)}


def _about(file: Path) -> dict[str, Any]:
    """A JSON object, empty where there is none."""
    try:
        return read_object(file)
    except (OSError, ValueError):
        return {}


def _holds(folder: Path, file: Path) -> bool:
    """True for a file in a folder or below it, under any name."""
    if not folder.is_dir():
        return False
    if Path(os.path.realpath(folder)) in Path(os.path.realpath(file)).parents:
        return True
    return any(os.path.samefile(file, each) for each in folder.iterdir() if each.is_file())


def _same(one: Path, other: Path) -> bool:
    """True for one file or folder under two names, not for a pipe or device, as /dev/tty may be."""
    if one.exists() and other.exists():
        return os.path.samefile(one, other) and (one.is_file() or one.is_dir())
    return os.path.realpath(one) == os.path.realpath(other)
