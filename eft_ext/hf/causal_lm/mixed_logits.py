"""The mixture's logits of many positions, by the fused operation, with gradients for the models' logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from eft_ext.methods import MixingMethod
from eft_ext.ops import combine


def mixed_logits(method: MixingMethod, logits: Sequence[Tensor], vocab_size: int, *, several: bool = False) -> Tensor:
    """The mixture's logits z, fp32 [rows, positions, vocab_size].

    Args:
        method: each parameter a number, or a tensor with a value for each row.
        logits: of each model [rows, positions, at least vocab_size], on one device.
        several: values may be those of prompts, of which each stands in several rows (beams).

    Raises:
        ValueError: a parameter is a function of the step, or has another number of values.
    """
    if method.is_scheduled:
        raise ValueError(
            f"method: expected fixed parameters in a forward pass, got functions of the step in {method!r}"
        )
    rows, positions = logits[0].shape[:2]

    def at_positions(name: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        count = value.numel()
        if value.ndim > 1 or (value.ndim == 1 and count != rows and not (several and count and rows % count == 0)):
            came = list(value.shape)
            raise ValueError(f"{name}: expected a number or {rows} values, one for each row, got shape {came}")
        return value.reshape(-1).to(logits[0].device).repeat_interleave(rows * positions // count)

    spread = method.mapped(at_positions)
    flat = [x[..., :vocab_size].reshape(-1, vocab_size) for x in logits]
    z = _Mixed.apply(spread, *flat)
    assert isinstance(z, Tensor)
    return z.view(rows, positions, vocab_size)


class _Mixed(torch.autograd.Function):
    """`combine` [N, V], with the derivative of its formula; excluded tokens have none."""

    @staticmethod
    def forward(ctx: Any, method: MixingMethod, *logits: Tensor) -> Tensor:
        z = combine(logits, method)
        if any(ctx.needs_input_grad[1:]):
            ctx.method = method
            ctx.save_for_backward(z > -torch.inf, *logits)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept, *logits = ctx.saved_tensors
        grad = grad.masked_fill(~kept, 0.0)
        conservative = ctx.method.conservative()
        if conservative is None:
            grads = [grad * _column(weight) for weight in ctx.method.weights()]
        else:
            grads = _conservative(ctx.method, conservative, grad, logits)
        return None, *(own.to(x.dtype) for own, x in zip(grads, logits, strict=True))


def _conservative(method: MixingMethod, conservative: Any, grad: Tensor, logits: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of tuned + scale·(log p_large − log p_base) inside the nucleus, tuned outside."""
    scale = _column(method.weights()[0])
    options = {"conservative_top_p": conservative.top_p, "conservative_set": conservative.set}
    inside = combine(logits, method.weights(), **options, conservative_outside="drop") > -torch.inf
    inner = grad.masked_fill(~inside, 0.0)
    total = inner.sum(dim=-1, keepdim=True) * (_column(conservative.top_p) < 1)  # 1 is off: logits, not log p
    large, base = (inner - x.float().softmax(dim=-1) * total for x in (logits[0], logits[2]))
    return [scale * large, grad, -scale * base]


def _column(weight: float | Tensor) -> float | Tensor:
    return weight[:, None] if isinstance(weight, Tensor) else weight
