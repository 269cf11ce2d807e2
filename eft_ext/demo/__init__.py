"""The embedded demonstration: a fictional world and the models that learnt it, small enough to ship."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

TRIO = ("large-base", "small-tuned", "small-base", "large-tuned")  # and what it is compared with
TALKATIVE = "small-talkative"  # another behaviour of the small base
MODELS = (*TRIO, TALKATIVE)


def model_path(name: str) -> Path:
    """The folder of a shipped model, as `from_pretrained` takes it.

    Raises:
        ValueError: the name is none of `MODELS`.
    """
    if name not in MODELS:
        raise ValueError(f"name: expected one of {', '.join(MODELS)}, got {name!r}")
    return Path(__file__).parent / "models" / name


def checkpoint_path() -> Path:
    """The folder of the shipped models, which is a checkpoint of the trio: large-base, small-tuned, small-base."""
    return Path(__file__).parent / "models"


def model_paths(folder: Path | None, names: Iterable[str]) -> dict[str, Path]:
    """The folders of models in another folder, or of the shipped ones.

    A name without a folder never reaches transformers, which would look for it on the hub.

    Raises:
        ValueError: one of them is missing.
    """
    paths = {name: folder / name if folder else model_path(name) for name in names}
    for name, path in paths.items():
        if not path.is_dir():
            raise ValueError(f"--models: expected a folder with {name}, found none in {path.parent}")
    return paths
