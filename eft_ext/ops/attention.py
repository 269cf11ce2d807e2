"""Attention of a few new tokens over a static cache on the CPU, as an operator that `torch.jit.trace` records."""

from __future__ import annotations

import torch
from torch import Tensor

from eft_ext.ops.backends import native

MAX_QUERIES = 32  # torch's own is as fast from here on
MAX_HEAD_DIM = 256
_DTYPES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2, torch.bool: 3}
_PLAIN = (Tensor, torch.nn.Parameter)

_library = torch.library.Library("eft_ext", "FRAGMENT")
_library.define("attention(Tensor q, Tensor k, Tensor v, Tensor? mask, float? scale, bool enable_gqa) -> Tensor")


def suits(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> bool:
    """True where the native kernel takes the call: up to `MAX_QUERIES` queries on the CPU, fp32, bf16 or fp16 (q, k and
    v the same), without a gradient, the last dimension contiguous and at most `MAX_HEAD_DIM` long."""
    if native._native is None or type(q) not in _PLAIN or type(k) not in _PLAIN or type(v) not in _PLAIN:
        return False
    dtype = q.dtype
    if dtype is torch.bool or dtype not in _DTYPES or k.dtype is not dtype or v.dtype is not dtype or not q.is_cpu:
        return False
    if q.dim() != 4 or k.dim() != 4 or v.shape != k.shape:
        return False
    batch, heads, queries, dim = q.shape
    kv_batch, kv_heads, slots, kv_dim = k.shape
    if not 0 < queries <= MAX_QUERIES or not 0 < dim <= MAX_HEAD_DIM or not slots or not batch:
        return False
    if kv_dim != dim or kv_batch != batch or not kv_heads or heads % kv_heads or not heads:
        return False
    if q.stride(3) != 1 or k.stride(3) != 1 or v.stride(3) != 1 or not k.is_cpu or not v.is_cpu:
        return False
    if mask is not None:
        if type(mask) not in _PLAIN or mask.dtype not in _DTYPES or mask.dim() != 4 or not mask.is_cpu:
            return False
        if mask.shape[3] != slots or mask.stride(3) != 1:
            return False
        if any(size not in (1, whole) for size, whole in zip(mask.shape, (batch, heads, queries), strict=False)):
            return False
    return not (torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, mask)))


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, enable_gqa: bool) -> Tensor:
    if not suits(q, k, v, mask) or (q.shape[1] != k.shape[1] and not enable_gqa):
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=scale, enable_gqa=enable_gqa
        )
        return out.transpose(1, 2).contiguous().transpose(1, 2)
    shape = q.shape
    batch, heads, queries, dim = shape
    out = q.new_empty((batch, queries, heads, dim)).transpose(1, 2)
    masked = (0, 0, (), ()) if mask is None else (mask.data_ptr(), _DTYPES[mask.dtype], mask.shape, mask.stride())
    native._native.attention(
        native.isa(),
        _DTYPES[q.dtype],
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
        out.stride(),
        *masked,
    )
    return out


_library.impl("attention", _attention, "CompositeExplicitAutograd")


@torch.library.register_fake("eft_ext::attention", lib=_library)
def _fake(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, enable_gqa: bool) -> Tensor:
    batch, heads, queries, _ = q.shape
    return q.new_empty((batch, queries, heads, v.shape[3])).transpose(1, 2)


attention = torch.ops.eft_ext.attention
