"""The folder of models as a checkpoint of its trio, which every tool of transformers loads as one model."""

from __future__ import annotations

from pathlib import Path

from eft_ext.hf import EmulatedModel
from eft_ext.hf.checkpoint.save import described, write_around

FOLDERS = {"large": "large-base", "tuned": "small-tuned", "base": "small-base"}


def write(folder: Path) -> None:
    """Writes what stands around the models of a checkpoint; they stay in folders of their own names."""
    large, tuned, base = (str(folder / own) for own in FOLDERS.values())
    model = EmulatedModel.from_pretrained(large, tuned, base, quiet=True)
    weights = {name: {"folder": own} for name, own in FOLDERS.items()}
    write_around(folder, *described(model.members, model.method, weights, words=model.words), model.words)
