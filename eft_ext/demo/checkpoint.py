"""The folder of models as a checkpoint of its trio, which every tool of transformers loads as one model."""

from __future__ import annotations

from pathlib import Path

from eft_ext.hf import EmulatedModel
from eft_ext.hf.checkpoint.save import config_of, settings_of, write_around

FOLDERS = {"large": "large-base", "tuned": "small-tuned", "base": "small-base"}


def write(folder: Path) -> None:
    """Writes what stands around the models of a checkpoint; they stay in folders of their own names."""
    large, tuned, base = (str(folder / own) for own in FOLDERS.values())
    model = EmulatedModel.from_pretrained(large, tuned, base, quiet=True)
    config = config_of(model.members, model.method, {name: {"folder": own} for name, own in FOLDERS.items()})
    settings = settings_of(model.members, model.method, model.generation_config)
    write_around(folder, config, settings, model.tokenizer)
