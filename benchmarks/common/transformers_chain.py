"""transformers' sampling chain, a baseline of the step: log-softmaxes, mixture, warpers, softmax, multinomial."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

WARPERS = {
    "temperature": TemperatureLogitsWarper,
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
}


def transformers_chain(options: dict[str, float]) -> Callable[..., Tensor]:
    """Returns a function of K logits tensors [B, V] (large, tuned, base, or one alone) that samples tokens [B]."""
    greedy = options.get("temperature") == 0.0
    warpers = [] if greedy else [make(options[name]) for name, make in WARPERS.items() if name in options]

    def chain(*logits: Tensor) -> Tensor:
        if len(logits) == 1:
            scores = logits[0].float()
        else:
            large, tuned, base = (torch.log_softmax(x.float(), dim=-1) for x in logits)
            scores = large + 1.0 * (tuned - base)
        for warper in warpers:
            scores = warper(None, scores)
        if greedy:
            return scores.argmax(dim=-1)
        return torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1).squeeze(1)

    return chain
