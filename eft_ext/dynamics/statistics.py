"""The figures recorded of each response token, from one look at its logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from eft_ext.ops import fused_score_mix
from eft_ext.ops.backends.registry import find

_IGNORE = -100
CHUNK_BYTES = 1 << 24  # logits looked at together: a few vocabulary-sized temporaries of them stay in the caches


class TokenStatistics(NamedTuple):
    """One value for each token, [tokens] fp32 but for `argmax` (int64); logarithms in nats.

    `log_prob` log π(y) of the token itself; `argmax`, `argmax_log_prob` the most probable token and its log π;
    `log_rest` log(1 − p_max), summed over the others, so that it is finite wherever anything else has probability;
    `entropy` of π; `pi_squared` ‖π‖².
    """

    log_prob: Tensor
    argmax: Tensor
    argmax_log_prob: Tensor
    log_rest: Tensor
    entropy: Tensor
    pi_squared: Tensor

    def a_norm(self, vocab_size: int) -> Tensor:
        """‖A‖_F of A = I − 1πᵀ: ‖A‖² = V − 2 + V‖π‖²."""
        return (vocab_size - 2 + vocab_size * self.pi_squared).clamp_min(0).sqrt()

    @property
    def g_norm(self) -> Tensor:
        """‖π − e_y‖, the norm of SFT's G at this token.

        (1 − π_y)² + Σ_{j≠y} π_j². The second part is a difference that rounding can spoil where π_y is near 1, but
        it lies between 0 and the first, which bounds the relative error.
        """
        p = self.log_prob.exp()
        is_argmax = self.log_prob == self.argmax_log_prob
        rest = torch.where(is_argmax, self.log_rest.exp(), -torch.expm1(self.log_prob))
        others = (self.pi_squared - p.square()).clamp_min(0)
        return (rest.square() + torch.minimum(others, rest.square())).sqrt()


def score_tokens(logits: Tensor, targets: Tensor) -> TokenStatistics:
    """The statistics of each row of `logits` [tokens, vocab] and its token in `targets` int64 [tokens].

    From a single read of the logits where there is a kernel.
    """
    if logits.device.type != "cpu" or logits.dtype == torch.float64 or not find("cpu").available:
        return token_statistics(logits, targets)
    found = fused_score_mix((logits[None],), (1.0,), targets[None], ignore_index=_IGNORE)
    log_prob, argmax, lse = (field[0, :, 0] for field in (found.logprobs, found.argmax, found.lse))
    top = logits[torch.arange(len(argmax)), argmax].double() - lse  # argmax is -1 along NaN
    # Where the token is the argmax the two are one number.
    top = torch.where(argmax == targets, log_prob, top.float())
    rest, entropy, squares = (field[0, :, 0] for field in (found.log1m_max, found.entropy, found.sum_squares))
    return TokenStatistics(log_prob, argmax, top, rest, entropy, squares)


def token_statistics(logits: Tensor, targets: Tensor) -> TokenStatistics:
    """The same in plain PyTorch.

    What fp64 models and devices without a kernel use, and what the kernel is held to.
    """
    rows = max(1, CHUNK_BYTES // (logits.shape[1] * logits.element_size()))
    parts = [_chunk(z, y) for z, y in zip(logits.split(rows), targets.split(rows), strict=True)]
    return TokenStatistics(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _chunk(logits: Tensor, targets: Tensor) -> TokenStatistics:
    z = logits if logits.dtype == torch.float64 else logits.float()
    top, argmax = z.max(-1)
    lse = z.logsumexp(-1)
    log_pi = z - lse[:, None]
    pi = log_pi.exp()
    # −inf · 0 at excluded tokens is 0 here: they carry no probability.
    entropy = -torch.where(pi > 0, pi * log_pi, 0.0).sum(-1)
    chosen = log_pi.gather(-1, targets[:, None]).squeeze(-1)
    rest = z.scatter(-1, argmax[:, None], -torch.inf).logsumexp(-1) - lse
    floats = (x.float() for x in (top - lse, rest, entropy, pi.square().sum(-1)))
    return TokenStatistics(chosen.float(), argmax, *floats)
