"""Loading: each model's files from where the checkpoint says, under the model's name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from eft_ext.config import EmulatedConfig
from eft_ext.serving.vllm import checks, names


class EmulatedLoader(names.DefaultModelLoader):
    """vLLM's own loader, which reads one folder, over the folders or hub ids of several models.

    It serves other models of the engine too, such as the one that drafts, as vLLM's own does.
    """

    def __init__(self, load_config: Any) -> None:
        super().__init__(replace(load_config, load_format="auto"))

    def get_all_weights(self, model_config: Any, model: Any) -> Iterator[tuple[str, Any]]:
        """Names and tensors of all models; a name begins with its model's: "tuned.model.layers.0. ..."."""
        if not isinstance(model_config.hf_config, EmulatedConfig):
            yield from super().get_all_weights(model_config, model)
            return
        for name, place in checks.places(model_config).items():
            chosen = {key: place.options.get(key) for key in ("revision", "subfolder")}
            yield from self._get_weights_iterator(self.Source(place.source, prefix=f"{name}.", **chosen))
