"""Models that PEFT puts on one set of weights: how one forward pass runs several of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from eft_ext.decoding.model_facts import input_table
from eft_ext.decoding.module_utils import parameters_of
from eft_ext.hf.adapters import AdapterSwitch, is_peft, lock_of
from eft_ext.hf.members import Member

_TRIED: WeakKeyDictionary[nn.Module, dict[Any, bool]] = WeakKeyDictionary()


class JointSwitch(AdapterSwitch):
    """Enters the state in which one pass runs several models, whose rows lie side by side: all adapters are on.

    A LoRA layer adds its product times a number, `scaling`. Here that is a tensor [rows, 1, 1], 0 in the rows of models
    without the adapter, so that it adds nothing to them and to the others what it would alone, bit for bit.

    Args:
        members: the models, in the order of their rows. `apart` has nothing against them.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__(members[0].name, members[0].model)
        self._layers = adapter_layers(members[0].model)
        with lock_of(members[0].model):
            # Of each layer and adapter: one number for each model.
            self._scales = [_scales(layer, members) for layer in self._layers]
        self._states: dict[int, list[dict[str, Any]]] = {}  # by rows: graphs hold the addresses of these tensors

    @contextmanager
    def __call__(self, rows: int = 0) -> Iterator[None]:
        if rows not in self._states:
            self._states[rows] = self._made(rows)
        assert self._lock is not None
        with self._lock:
            before = [{name: getattr(layer, name) for name in self._states[rows][0]} for layer in self._layers]
            self._enter(self._states[rows])
            try:
                yield
            finally:
                self._enter(before)

    def _made(self, rows: int) -> list[dict[str, Any]]:
        columns: dict[Any, Tensor] = {}
        states = []
        for layer, scales in zip(self._layers, self._scales, strict=True):
            weight = next(iter(parameters_of(layer)))
            made = {}
            for name, each in scales.items():
                key = (each, low_rank(layer, name).dtype)
                if key not in columns:
                    column = torch.tensor(each, dtype=key[1]).repeat(rows // len(each))[:, None, None]
                    columns[key] = column.to(weight.device)
                made[name] = columns[key]
            states.append({"_disable_adapters": False, "_active_adapter": list(made), "scaling": made})
        return states


def _scales(layer: Any, members: Sequence[Member]) -> dict[str, tuple[float, ...]]:
    active = [_active(member, layer) for member in members]
    names = dict.fromkeys(name for each in active for name in each if name in layer.scaling)
    return {name: tuple(layer.scaling[name] if name in each else 0.0 for each in active) for name in names}


def adapter_layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "_disable_adapters")]


def low_rank(layer: Any, adapter: str) -> Tensor:
    """A weight of an adapter."""
    if adapter in layer.lora_A:
        weight: Tensor = layer.lora_A[adapter].weight
        return weight
    table: Tensor = layer.lora_embedding_A[adapter]
    return table


def _active(member: Member, layer: Any) -> list[str]:
    """The adapters of a layer with which a model runs now."""
    if member.without_adapter or (member.adapter is None and layer._disable_adapters):
        return []
    return list(layer.active_adapters) if member.adapter is None else [member.adapter]


def groups_of(members: Sequence[Member]) -> list[list[int]]:
    """Places of models that one pass runs together."""
    by_model: dict[int, list[int]] = {}
    for place, member in enumerate(members):
        if is_peft(member.model):
            by_model.setdefault(id(member.model), []).append(place)
    return [places for places in by_model.values() if len(places) > 1 and not apart([members[k] for k in places])]


def apart(members: Sequence[Member]) -> str | None:
    """Why models on one set of weights do not share a pass, the end of a sentence; None where they do."""
    model, layers = members[0].model, adapter_layers(members[0].model)
    if model.training:
        return "is in training mode"
    if not layers:
        return "has no layer with an adapter"
    if len({p.device for p in parameters_of(model)}) > 1:
        return "is spread over devices"
    with lock_of(model):
        for layer in layers:
            if (why := _not_plain(layer, members)) is not None:
                return why
        key = tuple((m.without_adapter, m.adapter, *_active(m, layer)) for m in members for layer in layers[:1])
    tried = _TRIED.setdefault(model, {})
    if key not in tried:
        tried[key] = _is_right(members)
    return None if tried[key] else "gives other logits in one pass"


def _not_plain(layer: Any, members: Sequence[Member]) -> str | None:
    from peft.tuners.lora.layer import Embedding, Linear

    if type(layer) not in (Linear, Embedding):
        return f"has adapters in a {type(layer).__name__}, which are not plain LoRA"
    if layer.merged:
        return "has an adapter that is merged"
    for name, scales in _scales(layer, members).items():
        if name in layer.lora_variant:
            return f"has an adapter that is not plain LoRA ({type(layer.lora_variant[name]).__name__})"
        scaling = torch.tensor(max(scales, key=abs))
        if not torch.equal(scaling.to(low_rank(layer, name).dtype).to(scaling.dtype), scaling):
            return f"scales by {float(scaling):.4g}, which its dtype rounds"
    return None


@torch.inference_mode()
def _is_right(members: Sequence[Member]) -> bool:
    """True if one pass over two rows of each model gives what the models give alone."""
    model, n = members[0].model, len(members)
    ids = torch.tensor([[1, 2, 3], [3, 2, 1]], device=input_table(model).weight.device)
    alone = []
    for member in members:
        with member.switch()():
            alone.append(model(input_ids=ids, use_cache=False).logits.float())
    try:
        with JointSwitch(members)(2 * n):
            found = model(input_ids=ids.repeat_interleave(n, dim=0), use_cache=False).logits.float()
    except Exception:  # whatever a layer makes of other shapes than [rows, new, width]
        return False
    expected = torch.stack(alone, dim=1).flatten(0, 1)
    return found.shape == expected.shape and bool(
        ((found - expected).abs() <= 0.05 * expected.abs().amax().clamp(min=1)).all()
    )
