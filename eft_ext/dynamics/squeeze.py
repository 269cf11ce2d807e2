"""The squeezing effect: pushing down what is improbable anyway feeds the most probable token.

Ren & Sutherland, §3.3: where a preference loss lowers a response the model would not have given (off-policy), the
probability it loses goes to the argmax, and everything else falls with it, the chosen response too.
"""

from __future__ import annotations

import torch
from torch import Tensor


def squeeze_step(log_probs: Tensor, token: Tensor, strength: Tensor | float) -> Tensor:
    """Computes Δ log π of the whole vocabulary after one negative step on one token, exactly, at any step size.

    The step is on the logits themselves. Gradient ascent on −log π(y) moves z to z + e(π − e_y), and with
    τ = (1/e)·log Σ_j π_j exp(e(π_j − 1{j=y})),

        Δ log π_i = e[(π_i − 1{i=y}) − τ]

    The more peaked π is, the more of y's probability goes to the argmax: τ is above every π_i but the largest ones.

    Args:
        log_probs: log π, [..., vocab]; need not be normalised.
        token: y, int64 [...].
        strength: e ≥ 0, the learning rate times the loss's weight on the token, a number or [...].

    Returns:
        [..., vocab], in nats. The largest entry is the argmax's, unless y is the argmax.

    Raises:
        ValueError: a negative strength.
    """
    e = torch.as_tensor(strength, dtype=log_probs.dtype, device=log_probs.device)
    if bool((e < 0).any()):
        raise ValueError(f"strength: expected at least 0, got {float(e.min())}")
    log_pi = log_probs.log_softmax(-1)
    push = log_pi.exp()
    push = push.scatter_add(-1, token[..., None], -torch.ones_like(push[..., :1]))
    moved = e[..., None] * push
    return moved - (log_pi + moved).logsumexp(-1, keepdim=True)
