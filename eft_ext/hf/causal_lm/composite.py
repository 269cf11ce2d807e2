"""Several models of transformers as the children of one: made, loaded, saved, and what tools ask of their weights."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from eft_ext.config import EmulatedConfig
from eft_ext.hf.checkpoint.save import described, save
from eft_ext.hf.models import Models
from eft_ext.methods import MixingMethod, Weighted
from eft_ext.methods.serialized import to_dict

if TYPE_CHECKING:
    from typing_extensions import Self

_OWN_TABLES = "{}: expected nothing, since each model has its own table of tokens; change the models, then pack them"


class Composite(PreTrainedModel):
    """The models by name, of an `EmulatedModel` or made of a configuration.

    One that an adapter's PEFT model brings has no child of its own.

    Args:
        config: the models' configurations and the method.
        models: what is run; made of `config`, with random weights, where it is not given.
    """

    config_class = EmulatedConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    models: Models

    def __init__(self, config: EmulatedConfig, models: Models | None = None) -> None:
        if models is None:
            method = config.mixing_method
            if missing := [name for name in method.models if not hasattr(config, name)]:
                raise ValueError(f"config: expected the configuration of {missing[0]}, got none")
            made = {n: AutoModelForCausalLM.from_config(getattr(config, n)).eval() for n in method.models}
            models = Models(method=method, **made)
        for member in models.members:  # children are attributes
            if hasattr(type(self), member.name):
                raise ValueError(f"method: expected other names of models than {member.name!r}, which models have")
        object.__setattr__(self, "models", models)  # before the base asks for the generation's settings
        super().__init__(config)
        named: dict[int, Any] = {}  # a model that stands in several places has the first one's name
        for member in sorted(models.members, key=lambda member: member.without_adapter):
            named.setdefault(id(member.model), member)
        for member in models.members:
            if named[id(member.model)] is member:
                setattr(self, member.name, member.model)
            object.__setattr__(config, member.name, member.model.config)
        if any(hasattr(child, "hf_device_map") for child in self.children()):
            self.hf_device_map = {  # by which tools tell that they had better not move the weights
                f"{name}.{part}".rstrip("."): device
                for name, child in self.named_children()
                for part, device in getattr(child, "hf_device_map", {"": child.device}).items()
            }
        self.post_init()
        self.training = any(member.model.training for member in models.members)

    def __setattr__(self, name: str, value: Any) -> None:
        """Raises ValueError where one of the models would be replaced, which would go on running."""
        if name in self.__dict__.get("_modules", ()) and value is not self._modules[name]:
            raise ValueError(f"{name}: expected the model that is there; make an EmulatedModel of the other one")
        super().__setattr__(name, value)

    @classmethod
    def over(cls, models: Models) -> Self:
        """The model of transformers over the same weights."""
        method: MixingMethod = models.method
        try:
            to_dict(method)
        except ValueError:  # no file could hold it, which saving says
            method = Weighted(dict.fromkeys(method.models, 1.0))
        return cls(described(models.members, method, words=models.words)[0], models)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], *_: Any, **options: Any) -> Any:
        """Loads a folder or hub id that `eft pack` or `save_pretrained` has written.

        Args:
            source: the checkpoint.
            options: as for `EmulatedModel.from_pretrained`; `trust_remote_code` is about the checkpoint's own file
                alone, `trust_model_code` names the models whose code may run. With `output_loading_info` a pair is
                returned.
        """
        info = options.pop("output_loading_info", False)
        options.pop("trust_remote_code", None)
        for internal in ("_from_auto", "_from_pipeline", "adapter_kwargs", "_commit_hash", "code_revision"):
            options.pop(internal, None)
        models = Models.from_pretrained(os.fspath(source), quiet=True, **options)
        model = cls.over(models)
        model.name_or_path = model.config.name_or_path = os.fspath(source)
        model.eval()
        if not info:
            return model
        return model, {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}

    @property
    def device(self) -> torch.device:
        """The device on which prompts are read; the CPU where weights are fetched for each pass."""
        return self.models.device

    def to(self, *args: Any, **options: Any) -> Self:
        """Moves or casts each model as its own `to` does, which may refuse."""
        for child in self.children():
            child.to(*args, **options)
        return self

    @property
    def generation_config(self) -> Any:
        """The first model's."""
        return self.models.generation_config

    @generation_config.setter
    def generation_config(self, value: Any) -> None:
        if value is not None and self.__dict__.get("_modules"):  # not the one that the base makes of `config`
            self.models.members[0].model.generation_config = value

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, Any] | None = None,
        push_to_hub: bool = False,
        **options: Any,
    ) -> None:
        """Writes a folder that `from_pretrained` loads: the models in folders of their own.

        Args:
            save_directory: made where it is missing.
            is_main_process: nothing is written otherwise.
            state_dict: weights to write in place of the models' own.
            push_to_hub: as in transformers, with its `repo_id`, `token`, `private`, ...
            options: of transformers' save_pretrained, for each model: max_shard_size, variant, ...
        """
        known = inspect.signature(self.push_to_hub).parameters
        hub = {name: options.pop(name) for name in known if name in options and name not in ("max_shard_size", "token")}
        if is_main_process:
            models = self.models
            save(models.members, models.method, models.words, save_directory, state_dict, **options)
        if push_to_hub:
            name = hub.pop("repo_id", os.path.basename(os.path.normpath(save_directory)))
            self.push_to_hub(name, token=options.get("token"), **hub)

    def get_input_embeddings(self) -> nn.Module:
        """The first model's."""
        table: nn.Module = self.models.members[0].model.get_input_embeddings()
        return table

    def get_output_embeddings(self) -> None:
        """None: no one matrix makes these logits."""
        return None

    def set_input_embeddings(self, value: Any) -> None:
        raise ValueError(_OWN_TABLES.format("set_input_embeddings"))

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        raise ValueError(_OWN_TABLES.format("set_output_embeddings"))

    def resize_token_embeddings(self, *_: Any, **__: Any) -> Any:
        raise ValueError(_OWN_TABLES.format("resize_token_embeddings"))

    def tie_weights(self, *_: Any, **__: Any) -> None:
        """Ties each model's own weights, as tools that place models ask."""
        for child in self.children():
            child.tie_weights()

    def init_weights(self) -> None:
        """Nothing: the models have made theirs."""

    def set_attn_implementation(self, attn_implementation: Any, *others: Any, **options: Any) -> None:
        """Sets it for all models, or for those named in {name: implementation}."""
        for name, child in self.named_children():
            own = attn_implementation.get(name) if isinstance(attn_implementation, dict) else attn_implementation
            if own is not None:
                child.set_attn_implementation(own, *others, **options)
