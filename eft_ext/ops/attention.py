"""Attention of a few new tokens over a static cache on the CPU, as an operator that `torch.jit.trace` records."""

from __future__ import annotations

import torch
from torch import Tensor

from eft_ext.ops.backends import native
from eft_ext.ops.inputs import DTYPES
from eft_ext.ops.tracing import is_recorded

MAX_QUERIES = 32
MAX_HEAD_DIM = 256
_MASK_DTYPES = DTYPES | {torch.bool: 3}
_PLAIN = (Tensor, torch.nn.Parameter)

_library = torch.library.Library("eft_ext", "FRAGMENT")
_library.define("attention(Tensor q, Tensor k, Tensor v, Tensor? mask, float? scale, bool enable_gqa) -> Tensor")


# Written for few calls: a small model's attention takes as long as a hundred of them.
def suits(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> bool:
    """True where the native kernel takes the call: up to `MAX_QUERIES` queries on the CPU, fp32, bf16 or fp16 (q, k and
    v the same), without a gradient or autocast, the last dimension contiguous and at most `MAX_HEAD_DIM` long. `mask`
    has four dimensions, of which the first three may be 1, and is of those dtypes or bool."""
    if native._native is None or type(q) not in _PLAIN or type(k) not in _PLAIN or type(v) not in _PLAIN:
        return False
    dtype, shape, kv_shape = q.dtype, q.shape, k.shape
    if dtype not in DTYPES or k.dtype is not dtype or v.dtype is not dtype:
        return False
    if not (q.is_cpu and k.is_cpu and v.is_cpu) or len(shape) != 4 or len(kv_shape) != 4 or v.shape != kv_shape:
        return False
    batch, heads, queries, dim = shape
    kv_batch, kv_heads, slots, kv_dim = kv_shape
    if kv_dim != dim or kv_batch != batch or not (batch and heads and kv_heads and slots) or heads % kv_heads:
        return False
    if not (0 < queries <= MAX_QUERIES and 0 < dim <= MAX_HEAD_DIM):
        return False
    if not q.stride()[3] == k.stride()[3] == v.stride()[3] == 1:
        return False
    needs_grad = q.requires_grad or k.requires_grad or v.requires_grad
    if mask is not None:
        sizes = mask.shape
        if type(mask) not in _PLAIN or mask.dtype not in _MASK_DTYPES or not mask.is_cpu or len(sizes) != 4:
            return False
        if sizes[0] not in (1, batch) or sizes[1] not in (1, heads) or sizes[2] not in (1, queries):
            return False
        if sizes[3] != slots or mask.stride()[3] != 1:
            return False
        needs_grad = needs_grad or mask.requires_grad
    return not (needs_grad and torch.is_grad_enabled()) and not torch.is_autocast_enabled("cpu")


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, enable_gqa: bool) -> Tensor:
    shape = q.shape
    if not suits(q, k, v, mask) or not (enable_gqa or shape[1] == k.shape[1]):
        sdpa = torch.nn.functional.scaled_dot_product_attention
        out = sdpa(q, k, v, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)
        return out.transpose(1, 2).contiguous().transpose(1, 2)
    _, heads, queries, dim = shape
    strides = (queries * heads * dim, dim, heads * dim, 1)
    dtype = q.dtype
    out = torch.empty_strided(shape, strides, dtype=dtype, device="cpu")
    native._native.attention(
        native.isa(),
        DTYPES[dtype],
        dim**-0.5 if scale is None else scale,
        q.data_ptr(),
        k.data_ptr(),
        v.data_ptr(),
        out.data_ptr(),
        shape,
        k.shape,
        q.stride(),
        k.stride(),
        v.stride(),
        strides,
        *((0, 0, (), ()) if mask is None else (mask.data_ptr(), _MASK_DTYPES[mask.dtype], mask.shape, mask.stride())),
    )
    return out


_library.impl("attention", _attention, "CompositeExplicitAutograd")


@torch.library.register_fake("eft_ext::attention", lib=_library)
def _fake(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, enable_gqa: bool) -> Tensor:
    batch, heads, queries, _ = q.shape
    return q.new_empty((batch, queries, heads, v.shape[3])).transpose(1, 2)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, enable_gqa: bool) -> Tensor:
    """softmax(q k^T * scale + mask) v, as torch's `scaled_dot_product_attention` gives it, [batch, heads, queries, dim]
    whose transpose [batch, queries, heads, dim] is contiguous.

    Slots that the mask excludes for all queries of a sequence, in all heads that share its keys, are not used, whatever
    they hold. A row's bits depend on its own query and slots alone, where those values are finite.
    """
    call = torch.ops.eft_ext.attention if is_recorded() else _attention  # which costs less than the operator
    found: Tensor = call(q, k, v, mask, scale, enable_gqa)
    return found
