"""Weights of one model replaced while the engine runs: the backend "eft_folder" of vLLM's weight transfer."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from eft_ext.serving.vllm import checks, names
from eft_ext.serving.vllm.loader import EmulatedLoader


@dataclass
class NoInfo(names.WeightTransferInitInfo):
    """There is nothing to set up."""


@dataclass
class FromFolder(names.WeightTransferUpdateInfo):
    """One update.

    Attributes:
        model: the model's name in the method.
        folder: safetensors of a model of the same shape, on the engine's machine.
    """

    model: str
    folder: str


class FolderTransfer(names.WeightTransferEngine):
    """Reads a folder that a trainer has written.

    Names and shapes are compared first, since vLLM cannot go back once it has begun to replace a layer.
    """

    init_info_cls = NoInfo
    update_info_cls = FromFolder
    supports_draft_weight_update = False

    def init_transfer_engine(self, init_info: NoInfo) -> None: ...
    def start_weight_update(self) -> None: ...
    def finish_weight_update(self) -> None: ...
    def shutdown(self) -> None: ...

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Replaces one model's weights. Raises ValueError, with all weights as they were, for another model's shape."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":  # the base class synchronises, which a CPU knows nothing of
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: FromFolder) -> None:
        """Does what `update_weights` does, without waiting for the device."""
        name, folder = update_info.model, Path(update_info.folder)
        models = self.model.method.models
        if name not in models:
            raise ValueError(f"model: expected one of {', '.join(models)}, got {name!r}")
        place = checks.places(self.model_config)[name]
        if not os.path.isdir(place.source):
            raise ValueError(f"model: expected one whose weights came from a folder, got {name} of {place.source}")
        _compare(name, _shapes(Path(place.source)), folder, _shapes(folder))
        loader, inner = EmulatedLoader(self.vllm_config.load_config), getattr(self.model, name)
        source = loader.Source(str(folder), None, prefix=f"{name}.")
        names.initialize_layerwise_reload(inner)
        self.model.load_weights(loader._get_weights_iterator(source))
        names.finalize_layerwise_reload(inner, self.model_config)


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a folder's safetensors, by name. Raises ValueError where it cannot be read."""
    found: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as tensors:
                found |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ValueError(f"folder: cannot read {file}: {error}") from error
    if not found:
        raise ValueError(f"folder: expected one with safetensors, got {str(folder)!r}")
    return found


def _compare(name: str, old: dict[str, tuple[int, ...]], folder: Path, new: dict[str, tuple[int, ...]]) -> None:
    for tensor in sorted(old.keys() | new.keys()):
        if old.get(tensor) != new.get(tensor):
            wanted, came = (list(each[tensor]) if tensor in each else "none" for each in (old, new))
            raise ValueError(f"folder: expected {tensor} of {name}'s shape {wanted}, got {came} in {folder}")
