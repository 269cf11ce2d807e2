"""The models of a mixture, and what has to be known about each before it is run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from eft_ext.decoding.model_facts import input_table
from eft_ext.decoding.module_utils import modules_of, parameters_of
from eft_ext.hf.adapters import AdapterSwitch, adapter_name, base_is_lost, check_apart, check_runnable, is_peft
from eft_ext.methods import MixingMethod

NAMES = ("large", "tuned", "base")


@dataclass(frozen=True)
class Member:
    """One model of the mixture.

    `without_adapter` runs a PEFT model as the model under its adapter, `adapter` with this one of several.
    """

    name: str
    model: Any
    without_adapter: bool = False
    adapter: str | None = None

    @property
    def config(self) -> Any:
        return self.model.config.get_text_config(decoder=True)

    @property
    def device(self) -> torch.device | None:
        """The device for token ids: the input embedding's; None if offloaded weights fetch them."""
        device: torch.device = input_table(self.model).weight.device
        return None if device.type == "meta" else device

    @property
    def output_device(self) -> torch.device:
        """The device on which logits come out."""
        head: Any = self.model.get_output_embeddings()
        weight: Any = getattr(head, "weight", None)
        if not isinstance(weight, torch.Tensor):  # a quantized head packs its weight
            weight = next(iter(parameters_of(self.model)))
        device: torch.device = weight.device
        return device

    @property
    def vocab_size(self) -> int:
        """Columns of the logits, padding included."""
        head = self.model.get_output_embeddings()
        width = getattr(head, "out_features", None)  # a 4-bit weight has another shape
        return int(width if width is not None else self.config.vocab_size)

    def switch(self) -> AdapterSwitch:
        """Enters the state that the model is run in."""
        return AdapterSwitch(self.name, self.model, off=self.without_adapter, adapter=self.adapter)


def kind_of(member: Member) -> str:
    """The class of a member's model, under its adapter."""
    model = member.model
    return type(model.get_base_model() if is_peft(model) else model).__name__


def by_model(method: MixingMethod, given: Mapping[str, Any], *, mappings: bool = False) -> dict[str, Any]:
    """Resolves a name that stands for several models (see `MixingMethod.groups`) to theirs, in what is given by name.

    Such a name's value is a mapping of these models' names, or one value for all that are not named beside it; with
    `mappings` every mapping is one of names, right or wrong.
    """
    each: dict[str, Any] = {}
    for name, value in given.items():
        group = method.groups.get(name)
        if group is None or value is None:
            each[name] = value
        elif isinstance(value, Mapping) and (mappings or (value and set(value) <= set(group))):
            each |= value
        else:
            each = dict.fromkeys(group, value) | each
    return each


def members_of(method: MixingMethod, models: Mapping[str, Any], *, led: bool = False) -> tuple[Member, ...]:
    """The method's models in its order, and which of them share weights.

    Where a model is a PEFT model, the one it was put on (`base`, or the `reference` of realignment) may be that same
    PEFT model, the model it wraps, or None: then it is run as the PEFT model with its adapter switched off, and the
    weights are in memory once; so is any other model that is the wrapped one. A PEFT model that is given under several
    names is run with the adapter of each name.

    Args:
        method: says which models it needs, and in which order.
        models: by name; values that are None count as missing.
        led: the first model is not given, since whoever owns the loop runs it; the others are returned.

    Raises:
        TypeError: an argument is not a causal language model of transformers.
        ValueError: a model is missing or is not one of the method's; an adapter is a learned prompt.
    """
    names, adapter_base = method.models, method.adapter_base
    given = {name: model for name, model in by_model(method, models, mappings=True).items() if model is not None}
    for name in given:
        if name not in names:
            raise ValueError(f"{name}: not a model of {method!r}, which has {', '.join(names)}")
    wrapping = {n: m for n, m in given.items() if is_peft(m)}
    adapters = {n: m for n, m in wrapping.items() if n not in (names[0], adapter_base)}
    check_apart(wrapping)
    if led and adapter_base == names[0] and adapters:
        name = next(iter(adapters))
        raise ValueError(f"{name}: expected a whole model, since the loop runs {adapter_base}; merge it")
    found = []
    for name in names[led:]:
        model: Any = given.get(name)
        over: Any = next((m for m in wrapping.values() if model is m.get_base_model()), None)
        if name == adapter_base and over is None:
            exact = sorted(adapters.values(), key=lambda m: base_is_lost(m) is not None)
            over = next((m for m in exact if model is None or model is m), None)
        if name == adapter_base or adapter_base is None:
            _check_native(name, model, {n: m for n, m in given.items() if n not in (names[0], name)})
        if model is None and over is None:
            hint = f" (only a PEFT `{names[1]}` brings its own {name})" if name == adapter_base else ""
            raise ValueError(f"{name}: expected a model, got None{hint}")
        _check(name, model if over is None else over)
        if over is not None:
            why = base_is_lost(over)
            if why is not None:
                raise ValueError(f"{name}: expected a model of its own, since the adapter over it {why}")
            found.append(Member(name, over, without_adapter=True))
            continue
        several = model.peft_config if is_peft(model) and len(model.peft_config) > 1 else ()
        own = next((own for own in (name, adapter_name(name)) if own in several), None)
        found.append(Member(name, model, adapter=own))
    return tuple(found)


def _check_native(name: str, model: Any, behaviours: Mapping[str, Any]) -> None:
    """Raise ValueError for a model with an adapter of `load_adapter` that is its own base: they would not differ."""
    twice = next((other for other, m in behaviours.items() if m is model), None)
    if twice is not None and getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"{name}: expected a model without the adapter of {twice}, got the same one, which load_adapter has "
            f"changed; give a peft.PeftModel as {twice}, or another model as {name}"
        )


def _check(name: str, model: Any) -> None:
    if not isinstance(model, nn.Module) or not getattr(model, "can_generate", bool)():
        raise TypeError(f"{name}: expected a causal language model of transformers, got {type(model).__name__}")
    config: Any = model.config
    if config.is_encoder_decoder:
        raise TypeError(f"{name}: expected a decoder-only model, got the encoder-decoder {type(model).__name__}")
    layers = getattr(config.get_text_config(decoder=True), "num_hidden_layers", None)
    if isinstance(layers, int) and layers < 1:
        raise ValueError(f"{name}: expected a model with layers, got num_hidden_layers {layers}")
    if not getattr(config, "return_dict", True):
        raise ValueError(f"{name}: expected a model that returns its outputs by name, got return_dict False")
    if is_peft(model):
        check_runnable(name, model)
    if model.training:
        _warn_of_training(name)


def check_modes(members: tuple[Member, ...]) -> None:
    """Looks, when a call begins, at what a training loop switches back and forth.

    Raises ValueError for a model that keeps no cache as it is.
    """
    for name, model in ((member.name, member.model) for member in members if member.model.training):
        if any(getattr(module, "gradient_checkpointing", False) for module in modules_of(model)):
            raise ValueError(
                f"{name}: expected a model in eval mode, got one in training mode with gradient checkpointing, which "
                "keeps no cache; call .eval()"
            )
        _warn_of_training(name)


def _warn_of_training(name: str) -> None:
    warnings.warn(f"{name} is in training mode: dropout will disturb its logits; call .eval()", stacklevel=1)
