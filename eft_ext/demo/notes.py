"""`training.json`: what a folder of models was made with. Every complaint names the file and the key."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from eft_ext._jsonl import read_object
from eft_ext._seed import LARGEST

NAME = "training.json"
SCRIPT = "python -m eft_ext.demo.train"
MADE = f"a folder made by {SCRIPT}"
# Two people, the second of them held out; and names of two syllables for all.
_RANGES = {"seed": (0, LARGEST), "recipe.people": (2, 10_000), "recipe.towns": (1, 10_000)}


def read_world(option: str, folder: Path) -> tuple[int, int, int]:
    """Seed, people and towns: the arguments of the `World` that the models learnt.

    Args:
        option: whose folder it is, for messages.

    Raises:
        ValueError: no such folder, none of ours, or a value that no world has.
    """
    about = _read(option, folder)
    seed, people, towns = (_whole(folder / NAME, about, key) for key in _RANGES)
    return seed, people, towns


def read_models(option: str, folder: Path) -> tuple[dict[str, Any], float]:
    """Losses and the like of each model, by name, and the seconds they all took. Raises as `read_world`."""
    file, about = folder / NAME, _read(option, folder)
    models, seconds = about.get("models"), about.get("seconds")
    if not isinstance(models, dict):
        raise _wrong(file, "models", "an object", about)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
        raise _wrong(file, "seconds", "a number at least 0", about)
    return models, seconds


def _read(option: str, folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ValueError(f"{option}: no such folder: {folder}")
    if not (folder / NAME).is_file():
        raise ValueError(f"{option}: expected {MADE}, found no {NAME} in {folder}")
    return read_object(folder / NAME)


def _whole(file: Path, about: dict[str, Any], key: str) -> int:
    value, (low, high) = _at(about, key), _RANGES[key]
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _wrong(file, key, f"a whole number from {low} to {high}", about)
    return value


def _wrong(file: Path, key: str, wanted: str, about: dict[str, Any]) -> ValueError:
    value = _at(about, key)
    got = "nothing" if value is None else f"{value!r:.40}"
    return ValueError(f"{file}, key {key!r}: expected {wanted}, as {SCRIPT} writes it, got {got}")


def _at(about: Any, key: str) -> Any:
    """The value under keys joined by dots, None where there is none."""
    for part in key.split("."):
        about = about.get(part) if isinstance(about, dict) else None
    return about
