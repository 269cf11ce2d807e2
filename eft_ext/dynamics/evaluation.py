"""A model as it is, whatever a trainer has put around it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import RLock
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

_CONTAINERS = (DataParallel, DistributedDataParallel)
_CUDNN, _MKLDNN = cast(Any, torch.backends.cudnn), cast(Any, torch.backends.mkldnn)
_PRODUCTS: dict[str, tuple[Any, ...]] = {  # whose precision is set, by the device that computes them
    "cpu": (_MKLDNN.matmul, _MKLDNN.conv, _MKLDNN.rnn),
    "cuda": (torch.backends.cuda.matmul, _CUDNN.conv, _CUDNN.rnn),
}
_LOCK = RLock()  # what is switched belongs to the model or to the process


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Gives the module that computes, with dropout off and in the precision of its own parameters.

    Containers of data parallelism are taken off, and nothing that was compiled is used: inductor's code has no
    forward-mode derivatives. Autocast is off, both around the caller and where accelerate puts it: into the forward of
    a model that it prepared. fp32 products and convolutions are in fp32, not in TF32 or bf16. A step of fine-tuning
    often moves log π by less than any of these rounds it. Everything is as it was afterwards. One thread at a time.
    """
    inner = without_containers(model)
    with ExitStack() as stack:
        stack.enter_context(_LOCK)
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and importing it takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for kind in {"cpu", device_of(inner).type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(_own_forward(inner))
        stack.enter_context(_full_products(device_of(inner).type))
        modes = {module: module.training for module in inner.modules()}
        inner.eval()
        try:
            yield inner
        finally:
            for module, mode in modes.items():
                module.training = mode


def without_containers(model: nn.Module) -> nn.Module:
    """The module inside those of data parallelism and `torch.compile`."""
    while True:
        if isinstance(model, _CONTAINERS):
            model = model.module
        elif "_orig_mod" in model._modules:
            model = model.get_submodule("_orig_mod")
        else:
            return model


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def precision_of(model: nn.Module) -> str:
    """The dtypes of a model's parameters, as "float32" or "bfloat16, float32"."""
    found = {str(p.dtype).removeprefix("torch.") for p in model.parameters()}
    return ", ".join(sorted(found))


@contextmanager
def _own_forward(model: nn.Module) -> Iterator[None]:
    """Without the autocast that accelerate's `prepare_model` puts around it; it keeps the forward of before."""
    attributes: dict[str, Any] = model.__dict__
    if "_original_forward" not in attributes or "forward" not in attributes:
        yield
        return
    patched = attributes["forward"]
    attributes["forward"] = attributes["_original_forward"]
    try:
        yield
    finally:
        attributes["forward"] = patched


@contextmanager
def _full_products(device: str) -> Iterator[None]:
    before = [(each, each.fp32_precision) for each in _PRODUCTS.get(device, ())]
    try:
        for each, _ in before:
            each.fp32_precision = "ieee"
        yield
    finally:
        for each, value in before:
            each.fp32_precision = "none"  # as `torch.backends` says, for what was so
            if each.fp32_precision != value:
                each.fp32_precision = value
