"""Files and folders that commands write: checked before any work is done for them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from eft_ext._files import PICTURES as PICTURES
from eft_ext._files import check_folder, goes_elsewhere


def writable(
    option: str, path: Path | None, endings: tuple[str, ...] = (), others: Mapping[str, Path | None] | None = None
) -> None:
    """Checks a file that is to be written.

    Args:
        others: what the command reads and writes besides, by option.

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


def fillable(option: str, folder: Path | None, overwrite: bool, others: Mapping[str, Path | None]) -> None:
    """Checks a folder that is to be filled.

    Args:
        overwrite: files in it may be replaced.
        others: what the command reads and writes besides, by option.

    Raises:
        ValueError: it could not be made or written into, is not empty, or is one of the others.
    """
    if folder is None:
        return
    check_folder(option, folder)
    for name, other in others.items():
        if other is not None and _same(folder, other):
            raise ValueError(f"{option}: expected another folder than {name}, got {folder}")
    if not overwrite and folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{option}: {folder} is not empty; give --overwrite or another folder")


def _same(one: Path, other: Path) -> bool:
    """True for one file or folder under two names, not for a pipe or device, as /dev/tty may be."""
    if one.exists() and other.exists():
        return os.path.samefile(one, other) and (one.is_file() or one.is_dir())
    return os.path.realpath(one) == os.path.realpath(other)
