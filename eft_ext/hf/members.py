"""The three models of a mixture, and what has to be known about each before it is run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from eft_ext.decoding.support import forward_parameters, learned_positions

NAMES = ("large", "tuned", "base")
_LOCKS: WeakKeyDictionary[nn.Module, Lock] = WeakKeyDictionary()  # one for each model that has adapters


@dataclass(frozen=True)
class Member:
    """One model of the mixture; `without_adapter` runs a PEFT model as the model under its adapter."""

    name: str
    model: Any
    without_adapter: bool = False

    @property
    def config(self) -> Any:
        return self.model.config.get_text_config(decoder=True)

    @property
    def device(self) -> torch.device | None:
        """Where token ids have to be: at the input embedding; None if offloaded weights fetch them."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return None if device.type == "meta" else device

    @property
    def vocab_size(self) -> int:
        """Columns of the logits, padding included."""
        head = self.model.get_output_embeddings()
        width = getattr(head, "out_features", None)  # a 4-bit weight has another shape
        return int(width if width is not None else self.config.vocab_size)

    def forward_parameters(self) -> set[str]:
        """Names that the forward pass accepts."""
        return forward_parameters(self.model)

    def learned_positions(self) -> int | None:
        """Positions in a learned table, which must not be overrun; None for rotary and the like."""
        return learned_positions(self.model)


def is_peft(model: Any) -> bool:
    """Whether `model` is a peft.PeftModel, without importing peft."""
    return any(cls.__module__.startswith("peft.") and cls.__name__ == "PeftModel" for cls in type(model).__mro__)


def members(large: Any, tuned: Any, base: Any) -> tuple[Member, Member, Member]:
    """Order the models as large, tuned, base, and find out whether tuned and base share weights.

    With `tuned` a PEFT model, `base` may be that same PEFT model, the model it wraps, or None: then base
    is tuned with its adapter switched off, and the weights are in memory once.

    Raises:
        TypeError: an argument is not a causal language model of transformers.
        ValueError: `base` is missing, or the adapter is a learned prompt and not a set of weights.
    """
    shared = is_peft(tuned) and (base is None or base is tuned or base is tuned.get_base_model())
    if base is None and not shared:
        raise ValueError("base: expected a model, got None (only a PEFT `tuned` brings its own base)")
    for name, model in (("large", large), ("tuned", tuned), ("base", tuned if shared else base)):
        if not isinstance(model, nn.Module) or not getattr(model, "can_generate", bool)():
            raise TypeError(f"{name}: expected a causal language model of transformers, got {type(model).__name__}")
        config: Any = model.config
        if config.is_encoder_decoder:
            raise TypeError(f"{name}: expected a decoder-only model, got the encoder-decoder {type(model).__name__}")
        if model.training:
            warnings.warn(f"{name} is in training mode: dropout will disturb its logits; call .eval()", stacklevel=3)
    if is_peft(tuned) and tuned.active_peft_config.is_prompt_learning:
        raise ValueError("tuned: adapters that learn a prompt change the sequence length; only weight adapters work")
    return Member("large", large), Member("tuned", tuned), Member("base", tuned if shared else base, shared)


class AdapterSwitch:
    """Enters the state a member is run in: as it is, or with its adapter off.

    Not peft's `disable_adapter`: that walks the whole model to report on it and turns gradients on
    afterwards, and here it would be entered at every token. A model with adapters is run by one thread at a
    time, since the state belongs to the model.
    """

    def __init__(self, member: Member) -> None:
        self._lock = _LOCKS.setdefault(member.model, Lock()) if is_peft(member.model) else None
        modules = member.model.modules() if member.without_adapter else ()
        self._layers = [module for module in modules if hasattr(module, "_disable_adapters")]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        if self._lock is None:
            yield
            return
        with self._lock:
            before = [layer._disable_adapters for layer in self._layers]
            for layer in self._layers:
                layer._disable_adapters = True
            try:
                yield
            finally:
                for layer, disabled in zip(self._layers, before, strict=True):
                    layer._disable_adapters = disabled
