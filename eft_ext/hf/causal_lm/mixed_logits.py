"""The mixture's logits of many positions, by the fused operation, with gradients for the models' logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

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
            ctx.method, ctx.own = method, _OwnTokens.of(method, z, logits)
            ctx.save_for_backward(z > -torch.inf, *logits)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept, *logits = ctx.saved_tensors
        grad = grad.masked_fill(~kept, 0.0)
        of_own = None if ctx.own is None else ctx.own.taken_out_of(grad)
        conservative = ctx.method.conservative()
        if conservative is None:
            grads = [grad * _column(weight) for weight in ctx.method.weights()]
        else:
            grads = _conservative(ctx.method, conservative, grad, logits)
        if of_own is not None:
            grads[ctx.own.owner] = grads[ctx.own.owner] + of_own
        return None, *(own.to(x.dtype) for own, x in zip(grads, logits, strict=True))


class _OwnTokens(NamedTuple):
    """Tokens of one model alone, tau + (max y - max tau) of numerics.md §15, for their derivative."""

    owner: int
    ids: list[int]
    best: Tensor  # [N, 1], the best ordinary token of the mixture
    best_of_owner: Tensor  # [N, 1]

    @classmethod
    def of(cls, method: MixingMethod, z: Tensor, logits: Sequence[Tensor]) -> _OwnTokens | None:
        special = method.special_tokens
        ids = [i for i in special.own if i < z.shape[1]] if special else []
        if special is None or not ids:
            return None
        owner = special.index_of_owner(method.models)
        ordinary = z.index_fill(1, torch.tensor(ids, device=z.device), -torch.inf)
        tau = logits[owner].float().masked_fill(ordinary == -torch.inf, -torch.inf)
        return cls(owner, ids, ordinary.argmax(dim=1, keepdim=True), tau.argmax(dim=1, keepdim=True))

    def taken_out_of(self, grad: Tensor) -> Tensor:
        """Moves own tokens' gradients to the mixture's best token; returns what belongs to the owner's logits."""
        own = torch.zeros_like(grad)
        own[:, self.ids] = grad[:, self.ids]
        total = own.sum(dim=1, keepdim=True)
        grad[:, self.ids] = 0.0
        grad.scatter_add_(1, self.best, total)
        return own.scatter_add_(1, self.best_of_owner, -total)


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
