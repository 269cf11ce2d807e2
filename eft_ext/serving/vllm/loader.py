"""Loading: each model's files from where the checkpoint says, under the model's name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from eft_ext.config import EmulatedConfig
from eft_ext.hf.loading.hub import why
from eft_ext.serving.vllm import checks, names


class EmulatedLoader(names.DefaultModelLoader):
    """vLLM's own loader, which reads one folder, over the folders or hub ids of several models.

    It serves other models of the engine too, such as the one that drafts, as vLLM's own does.
    """

    def __init__(self, load_config: Any) -> None:
        given = load_config.load_format.removeprefix(checks.LOAD_FORMAT)
        super().__init__(replace(load_config, load_format=given if given in checks.READS else "auto"))
        self.last = ""  # the tensor that is being loaded

    def load_weights(self, model: Any, model_config: Any) -> None:
        """Raises ValueError for a tensor that does not fit, by its name, which vLLM does not say."""
        try:
            super().load_weights(model, model_config)
        except (AssertionError, RuntimeError) as error:
            if not self.last:
                raise
            raise ValueError(f"{self.last}: cannot be loaded: {why(error)}") from error

    def get_all_weights(self, model_config: Any, model: Any) -> Iterator[tuple[str, Any]]:
        """Names and tensors of all models; a name begins with its model's: "tuned.model.layers.0. ..."."""
        if not isinstance(model_config.hf_config, EmulatedConfig):
            yield from super().get_all_weights(model_config, model)
            return
        for name, place in checks.places(model_config).items():
            chosen = {key: place.options.get(key) for key in ("revision", "subfolder")}
            try:
                source = self.Source(place.source, prefix=f"{name}.", **chosen)
                for tensor_name, tensor in self._get_weights_iterator(source):
                    self.last = tensor_name
                    yield tensor_name, tensor
            except Exception as error:  # a file that cannot be read; the libraries' errors do not say which model's
                raise ValueError(f"{name}: cannot read weights in {place.source!r}: {why(error)}") from error

    def track_weights_loading(self, model: Any, loaded_weights: set[str] | None, quantized: bool = False) -> None:
        """Raises ValueError for a tensor that a model's files lack. vLLM goes on for most, with what memory held."""
        if isinstance(getattr(model, "config", None), EmulatedConfig) and loaded_weights is not None:
            _check_loaded(model, loaded_weights)
        super().track_weights_loading(model, loaded_weights, quantized)


def _check_loaded(model: Any, loaded: set[str]) -> None:
    for parameter, _ in model.named_parameters():
        name, _, own = parameter.partition(".")
        quantised = getattr(getattr(model.config, name), "quantization_config", None) is not None
        if not quantised and parameter not in loaded:
            raise ValueError(f"{name}: expected weights for {own}, found none; its files lack a tensor")
