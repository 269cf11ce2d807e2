"""Adapters of PEFT: switched on and off where models share their weights, and which of them that is exact for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

_LOCKS: WeakKeyDictionary[nn.Module, Lock] = WeakKeyDictionary()  # one for each model that has adapters
# Types whose layers, switched off, are the layers below to the last bit (python_tests/hf/test_adapters_off.py).
_SWITCHED = frozenset(
    """
    ADALORA BEFT BOFT DEFT DELORA FOURIERFT FROD GLORA GRALORA HIRA HRA IA3 LILY LN_TUNING LOHA LOKR LORA OFT OSF PEANUT
    PSOFT PVERA RANDLORA SUPERTUNING TINYLORA TRAINABLE_TOKENS UNILORA VBLORA VERA
    """.split()  # noqa: SIM905
)
# Initialisations that leave the base's weights as they are.
_BESIDE = (True, False, None, "gaussian", "eva", "orthogonal", "mica", "lycoris")


def is_peft(model: Any) -> bool:
    """True for a peft.PeftModel, found without importing peft."""
    return any(cls.__module__.startswith("peft.") and cls.__name__ == "PeftModel" for cls in type(model).__mro__)


def adapter_name(name: str) -> str:
    """A name that peft takes for a behaviour's adapter: without dots, and without the prefixes of peft's own."""
    return "behaviour_" + re.sub(r"\W", "_", name)


def changes_base(config: Any) -> str | None:
    """Why an adapter that is switched off does not leave its base, the end of a sentence; None where it does.

    Args:
        config: a peft.PeftConfig, or what adapter_config.json holds.
    """
    said: Mapping[str, Any] = config if isinstance(config, Mapping) else config.to_dict()
    kind = said.get("peft_type")
    kind = getattr(kind, "value", kind)
    if kind not in _SWITCHED:
        return f"is of type {kind}, which does not switch off layer by layer"
    for name in ("init_lora_weights", "init_weights"):
        if said.get(name) not in _BESIDE:
            return f"was initialised from the base's weights ({name}={said[name]!r}), which that changed"
    if said.get("bias") not in (None, "none"):
        return f"trained biases of the base (bias={said['bias']!r})"
    if said.get("layer_replication"):
        return "repeats layers of the base (layer_replication)"
    return None


def base_is_lost(model: Any) -> str | None:
    """Gives the first reason of `changes_base` among all adapters of a PEFT model."""
    if getattr(model.get_base_model(), "_hf_peft_config_loaded", False):
        return "lies over another one of load_adapter, which would be switched off with it"
    found = (changes_base(config) for config in model.peft_config.values())
    return next((why for why in found if why is not None), None)


def check_runnable(name: str, model: Any) -> None:
    """Raise ValueError for a PEFT model that decoding token by token does not run as PEFT would."""
    for config in model.peft_config.values():
        if config.is_prompt_learning:
            raise ValueError(
                f"{name}: adapters that learn a prompt change the sequence length; only weight adapters work"
            )
        if getattr(config, "alora_invocation_tokens", None):
            raise ValueError(
                f"{name}: expected an adapter that is always on, got one that acts from certain tokens on "
                "(alora_invocation_tokens)"
            )


def check_apart(adapters: Mapping[str, Any]) -> None:
    """Raise ValueError where two PEFT models were put on one model: the second has then changed the first."""
    for name, model in adapters.items():
        for other, earlier in adapters.items():
            if other == name:
                break
            if earlier is not model and earlier.get_base_model() is model.get_base_model():
                raise ValueError(
                    f"{name}: expected an adapter of {other}'s PEFT model (load_adapter, under this name) or a base of "
                    f"its own, got a second PEFT model over the base of {other}"
                )


def lock_of(model: nn.Module) -> Lock:
    """The lock of a model's adapters: whoever holds it may change or read their state."""
    return _LOCKS.setdefault(model, Lock())


class AdapterSwitch:
    """Enters the state that a model is run in: as it is, with one of several adapters, or with its adapter off.

    Not peft's `disable_adapter` and `set_adapter`: they walk the whole model and touch its gradients, and here they
    would be entered at every token. A model with adapters is run by one thread at a time, since the state belongs to
    the model.

    Args:
        name: for messages.
        model: what is run, with its adapters.
        off: without them.
        adapter: with this one alone.

    Raises:
        ValueError: an adapter is merged into the weights that it should be off or out of.
    """

    def __init__(self, name: str, model: Any, *, off: bool = False, adapter: str | None = None) -> None:
        self._lock = lock_of(model) if is_peft(model) else None
        self._state: dict[str, Any] = {}
        if off:
            self._state = {"_disable_adapters": True}
        elif adapter is not None:
            self._state = {"_disable_adapters": False, "_active_adapter": [adapter]}
        modules = model.modules() if self._state else ()
        self._layers = [module for module in modules if hasattr(module, "_disable_adapters")]
        if any(getattr(layer, "merged", False) for layer in self._layers):  # peft would unmerge it, and round twice
            raise ValueError(
                f"{name}: expected adapters beside the weights that models share, got a merged one; call "
                f"unmerge_adapter(), or give {name} as a model of its own"
            )

    @contextmanager
    def __call__(self) -> Iterator[None]:
        if self._lock is None:
            yield
            return
        with self._lock:
            before = [{name: getattr(layer, name) for name in self._state} for layer in self._layers]
            self._enter([self._state] * len(self._layers))
            try:
                yield
            finally:
                self._enter(before)

    def _enter(self, states: list[dict[str, Any]]) -> None:
        for layer, state in zip(self._layers, states, strict=True):
            for name, value in state.items():
                setattr(layer, name, value)
