"""Tensors that say they are on a device and lie in the host's memory: each by itself, beside tensors of the host.

A mark on the tensor says where it is. Results of marked tensors are marked. A function that is given both kinds raises,
as on a device.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

DEVICE = torch.device("cuda", 0)
HOST = torch.device("cpu")
# Functions that take tensors of the host and of the device: copies, and indexing.
TAKES_BOTH = {"copy_", "to", "type_as", "__getitem__", "__setitem__", "index_put_", "set_", "_make_subclass"}


def is_marked(x: Tensor) -> bool:
    return "_standin" in x.__dict__


def mark(x: Tensor) -> Tensor:
    x.__dict__["_standin"] = True
    return x


def mark_all(values: Any, but: Iterable[Tensor] = ()) -> Any:
    """Marks every tensor in `values` that is not one of `but`."""
    others = {id(x) for x in but}
    for x in pytree.tree_leaves(values):
        if isinstance(x, Tensor) and id(x) not in others:
            mark(x)
    return values


def wants_device(device: Any) -> bool:
    """True for "cuda", a torch.device of that type, or a number."""
    return isinstance(device, int) or (device is not None and torch.device(device).type == "cuda")


class OnDevice(TorchFunctionMode):
    """Applies the rules above to every function of torch."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        if function is Tensor.cuda:
            return mark(args[0].clone())
        if function is Tensor.cpu:
            return args[0].detach().clone() if is_marked(args[0]) else args[0]
        if function is Tensor.to:
            return _moved(args[0], args[1:], kwargs)
        kwargs.pop("pin_memory", None)
        device = kwargs.get("device")
        if device is not None:
            kwargs["device"] = HOST if wants_device(device) else device
        given = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        own = [x for x in given if not is_marked(x)]
        here = len(own) < len(given)
        if here and name not in TAKES_BOTH and any(x.dim() and x.numel() for x in own):
            shapes = [("cuda" if is_marked(x) else "cpu", list(x.shape)) for x in given]
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, got {shapes}")
        out = function(*args, **kwargs)
        if wants_device(device) or (here and device is None):
            mark_all(out, but=own)
        return out


def _moved(x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Applies `Tensor.to` for a device, a dtype, both, or another tensor."""
    kwargs = {name: value for name, value in kwargs.items() if name not in ("non_blocking", "copy")}
    wanted = [*args, *kwargs.values()]
    there, dtype = is_marked(x), None
    for value in wanted:
        if isinstance(value, Tensor):
            there, dtype = is_marked(value), value.dtype
        elif isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, (str, torch.device)) or (isinstance(value, int) and not isinstance(value, bool)):
            there = wants_device(value)
    y = x if dtype is None else x.type(dtype)
    if there == is_marked(x):
        return mark(y) if there else y
    y = y.clone() if y is x else y  # between memories: never the same tensor
    y.__dict__.pop("_standin", None)
    return mark(y) if there else y


class Generator(torch.Generator):
    """A generator of the host, for any device."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        return super().__new__(cls, "cpu")


def install() -> None:
    """Installs the rules for the rest of the process."""
    Tensor.device = property(lambda x: DEVICE if is_marked(x) else HOST)  # type: ignore[assignment]
    Tensor.is_cuda = property(is_marked)  # type: ignore[assignment]
    Tensor.is_cpu = property(lambda x: not is_marked(x))  # type: ignore[assignment]
    Tensor.get_device = lambda x: 0 if is_marked(x) else -1  # type: ignore[method-assign]
    Tensor.pin_memory = lambda x, *_: x  # type: ignore[method-assign]
    Tensor.is_pinned = lambda x, *_: False  # type: ignore[method-assign]
    Tensor.record_stream = lambda x, stream: None  # type: ignore[method-assign]
    torch.Generator = Generator  # type: ignore[misc]
    plain_new, plain_to, plain_copy = nn.Parameter.__new__, nn.Module.to, Tensor.__deepcopy__

    def new_parameter(cls: Any, data: Any = None, requires_grad: bool = True) -> Any:
        made = plain_new(cls, data, requires_grad)
        return mark(made) if data is not None and is_marked(data) else made

    def move_module(module: Any, *args: Any, **kwargs: Any) -> Any:
        wanted = [x for x in (*args, kwargs.pop("device", None)) if x is not None]
        types = [x for x in wanted if isinstance(x, torch.dtype)] + [x for x in [kwargs.pop("dtype", None)] if x]
        if types:
            plain_to(module, types[0])
        if any(wants_device(x) for x in wanted if not isinstance(x, (torch.dtype, bool))):
            mark_all([*module.parameters(), *module.buffers()])
        return module

    def copy(x: Any, memo: Any) -> Any:
        made = plain_copy(x, memo)
        return mark(made) if is_marked(x) else made

    nn.Parameter.__new__ = new_parameter  # type: ignore[method-assign]
    nn.Module.to = move_module  # type: ignore[method-assign]
    nn.Module.cuda = lambda module, *_: move_module(module, "cuda")  # type: ignore[method-assign]
    Tensor.__deepcopy__ = copy  # type: ignore[method-assign]
    OnDevice().__enter__()
