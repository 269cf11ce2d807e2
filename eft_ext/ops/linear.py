"""Linear layers for few rows on a CPU: one read of the weight as torch stores it, for up to 64 rows.

torch's own product packs the weight, or multiplies rows one by one: two rows take it twice as long as one. The kernel
is csrc/cpu/linear_isa.cpp, its history docs/notes/cpu-linear-versions.md. A row gets the same bits alone as among
others, and from any number of threads; other instruction sets may round otherwise. No gradient flows through it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear as torch_linear

from eft_ext.ops.backends import native
from eft_ext.ops.inputs import DTYPES
from eft_ext.ops.tracing import is_recorded

MAX_ROWS = 64
MIN_BYTES = 1 << 19  # of a weight; a smaller one does not repay the operator's 10 µs

_PLAIN = (Tensor, torch.nn.Parameter)  # others may hold no memory of their own

_library = torch.library.Library("eft_ext", "FRAGMENT")
_library.define("linear(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor")


def suits(x: Tensor, weight: Tensor) -> bool:
    """True where the kernel takes ``linear(x, weight)``, rather than torch.

    Both are dense CPU tensors of one dtype, bf16, fp16 or fp32, with the native module present; the weight [N, K] is
    contiguous and has at least `MIN_BYTES`; x is [..., K] with 1 to 64 rows; neither needs a gradient.
    """
    return _weight_suits(weight) and _rows_suit(x, weight)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear``, by the kernel where `suits` says so.

    Recorded (`torch.jit.trace`, `torch.compile`, fake tensors) it is the operator ``eft_ext::linear``, which asks
    `suits` again with every call.

    Args:
        x: [..., K].
        weight: [N, K].
        bias: [N], or None.

    Returns:
        [..., N] of x's dtype, summed in fp32 and rounded once.
    """
    if is_recorded():
        # Sizes are not asked here: a trace would record the question.
        tensors = (x, weight) if bias is None else (x, weight, bias)
        trains = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        kernel = weight.is_cpu and weight.dtype in DTYPES and not trains and native._native is not None
        return torch.ops.eft_ext.linear(x, weight, bias) if kernel else torch_linear(x, weight, bias)
    return _operator(x, weight, bias)


def _in_memory(x: Tensor) -> bool:
    return type(x) in _PLAIN and x.is_cpu and x.layout is torch.strided and not (x.is_neg() or x._is_zerotensor())


def _weight_suits(weight: Tensor) -> bool:
    return (
        weight.dtype in DTYPES
        and weight.dim() == 2
        and weight.numel() * weight.element_size() >= MIN_BYTES
        and weight.is_contiguous()
        and _in_memory(weight)
        and not (weight.requires_grad and torch.is_grad_enabled())
        and native._native is not None
    )


def _rows_suit(x: Tensor, weight: Tensor) -> bool:
    features = weight.shape[1]
    return (
        x.dtype is weight.dtype
        and x.dim() > 0
        and x.shape[-1] == features
        and 0 < x.numel() <= MAX_ROWS * features
        and _in_memory(x)
        and not (x.requires_grad and torch.is_grad_enabled())
        and not torch.is_autocast_enabled("cpu")
    )


def _bias_suits(bias: Tensor, weight: Tensor) -> bool:
    return (
        bias.dtype is weight.dtype
        and bias.shape == weight.shape[:1]
        and bias.is_contiguous()
        and _in_memory(bias)
        and not (bias.requires_grad and torch.is_grad_enabled())
    )


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not _rows_suit(x, weight) or (bias is not None and not _bias_suits(bias, weight)):
        return torch_linear(x, weight, bias)
    outputs, features = weight.shape
    x = x.contiguous()
    y = x.new_empty((*x.shape[:-1], outputs))
    native._native.linear(
        native.isa(),
        DTYPES[x.dtype],
        x.numel() // features,
        features,
        outputs,
        x.data_ptr(),
        weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        y.data_ptr(),
    )
    return y


def _operator(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if not _weight_suits(weight):
        return torch_linear(x, weight, bias)
    return _linear(x, weight, bias)


_library.impl("linear", _operator, "CompositeExplicitAutograd")


@torch.library.register_fake("eft_ext::linear", lib=_library)
def _fake_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))
