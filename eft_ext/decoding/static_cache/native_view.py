"""A model with native products and attention, on a CPU: other modules around the very same weights.

A decoding step reads every weight for one token of a row, or for some drafts. torch's products are made for many rows:
for two to sixteen they take two to three times as long as reading the weights does (benchmarks/bench_linear.py), and
its attention up to ten times as long as reading keys and values does (benchmarks/bench_attention.py). Both operations
leave to torch what they are not made for.

The model itself stays as it is: no module, setting or function of it changes, so others may use it meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from copy import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from eft_ext.decoding.module_utils import hooks_of, modules_of, parameters_of
from eft_ext.ops.attention import attention, suits
from eft_ext.ops.linear import MIN_BYTES, linear

_NAME = "eft_ext"  # of the attention, in the configurations of views
_LARGE = 8 * 2**20  # bytes of a weight, such as a head's: from here on one row too is faster
_SWITCHED = ("_disable_adapters", "_active_adapter", "scaling")  # of layers with adapters, from pass to pass


class NativeLinear(nn.Linear):
    leaves_one_row: bool  # to torch, which is as fast, by the cheaper call

    def forward(self, input: Tensor) -> Tensor:
        if self.leaves_one_row and input.numel() == self.in_features:
            return functional.linear(input, self.weight, self.bias)
        return linear(input, self.weight, self.bias)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it; returns [rows, new, heads, width]."""
    plain = not others.get("dropout") and all(
        others.get(name) is None for name in ("position_bias", "softcap", "cache")
    )
    if attention_mask is None or not plain or not suits(query, key, value, attention_mask):
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **others
        )
        return found
    return attention(query, key, value, attention_mask, scaling, True).transpose(1, 2), None


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)


def native_view(model: Any) -> Any:
    """Such a view of `model`, which sees its weights change and adapters switched; all else as it was at this call.

    `model` itself where it is not on a CPU, or calls Python beside its modules' own forward passes. What a module
    writes on itself in a pass is the view's alone.
    """
    modules = modules_of(model)
    if (
        any(p.device.type != "cpu" for p in parameters_of(model))
        or hooks_of(model)
        or any("forward" in vars(module) for module in modules)
    ):
        return model
    views = {id(module): object.__new__(_class_of(module)) for module in modules}
    configs: dict[int, Any] = {}
    kinds = {type(module) for module in modules}
    attends = all(getattr(kind, "_supports_attention_backend", True) for kind in kinds) and _is_stock(kinds)
    for module in modules:
        own = views[id(module)].__dict__
        own.update(vars(module))  # weights and buffers are dicts of the module's, and stay shared
        own["_viewed"] = module
        if type(views[id(module)]) is NativeLinear:
            own["leaves_one_row"] = module.weight.dtype is torch.float32 and module.weight.nbytes < _LARGE
        own["_modules"] = {name: child and views[id(child)] for name, child in module._modules.items()}
        for name, value in vars(module).items():
            if attends and isinstance(value, PretrainedConfig):
                if id(value) not in configs:
                    configs[id(value)] = _config(value)
                own[name] = configs[id(value)]
    return views[id(model)]


def _is_stock(kinds: Iterable[type[nn.Module]]) -> bool:
    """True where "sdpa" is transformers' own attention, which someone may have replaced, for all or for one family."""
    files = {kind.__module__: sys.modules.get(kind.__module__) for kind in kinds}.values()
    functions = [AttentionInterface(), *(getattr(file, "ALL_ATTENTION_FUNCTIONS", {}) for file in files)]
    own = all(each.get("sdpa", sdpa_attention_forward) is sdpa_attention_forward for each in functions)
    return own and AttentionMaskInterface()["sdpa"] is sdpa_mask


def _class_of(module: Any) -> Any:
    kind: Any = type(module)
    if _SWITCHED[0] in vars(module) or hasattr(kind, _SWITCHED[0]):  # hasattr(module, …) takes a microsecond to say no
        return _switched(kind)
    plain = kind is nn.Linear and type(module.weight) in (nn.Parameter, Tensor)
    return NativeLinear if plain and module.weight.nbytes >= MIN_BYTES else kind  # a trace keeps the choice


@cache
def _switched(kind: Any) -> Any:
    """`kind`, but its state of adapters is that of the layer it is a view of."""

    def followed(name: str) -> property:
        return property(lambda view: getattr(view.__dict__["_viewed"], name))

    return type(kind.__name__, (kind,), {name: followed(name) for name in _SWITCHED})


def _config(config: Any) -> Any:
    if config._attn_implementation != "sdpa":
        return config
    config = copy(config)
    config._attn_implementation_internal = _NAME
    return config
