"""Baselines of the step on a GPU, each a function of K logits tensors [B, V] that returns tokens [B].

FlashInfer samples from one distribution: for K = 3 a compiled combination goes before it. It is measured where it can
be imported; every path of it that computes the options is tried, and the fastest counts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

Peer = Callable[..., Tensor]
Options = dict[str, float]


def combine(*logits: Tensor) -> Tensor:
    """Returns z fp32 [B, V] without the normalisers, which softmax cancels."""
    if len(logits) == 1:
        return logits[0].float()
    large, tuned, base = (x.float() for x in logits)
    return large + (tuned - base)


@cache
def compiled_combine() -> Peer:
    """Compiles `combine` once for all shapes of a K."""
    return torch.compile(combine, dynamic=True)


def compiled_chain(chain: Peer) -> Peer:
    """Compiles the chain for the shape that it is called with."""
    return torch.compile(chain, dynamic=False)


@cache
def seed_and_offset(device: torch.device) -> dict[str, Tensor]:
    """Returns tensors, as a graph needs: without them FlashInfer reads the generator's state on the host each call."""
    return {name: torch.ones(1, dtype=torch.int64, device=device) for name in ("seed", "offset")}


def flashinfer_paths(sampling: Any, options: Options, mixed: Peer = combine) -> dict[str, Peer]:
    """Returns FlashInfer's paths for these options by name; empty for greedy, which it leaves to torch."""
    temperature = options.get("temperature", 1.0)
    top_k, top_p, min_p = int(options.get("top_k", 0)), options.get("top_p", 1.0), options.get("min_p", 0.0)
    if temperature == 0.0:
        return {}

    def probs(logits: tuple[Tensor, ...]) -> Tensor:
        return sampling.softmax(mixed(*logits), temperature=temperature)

    def draw(logits: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return seed_and_offset(logits[0].device)

    if min_p:  # no kernel does all three: renormalise by the first two, then sample by the third

        def everything(*logits: Tensor) -> Tensor:
            p = probs(logits)
            p = sampling.top_k_renorm_probs(p, top_k) if top_k else p
            p = sampling.top_p_renorm_probs(p, top_p) if top_p < 1 else p
            return sampling.min_p_sampling_from_probs(p, min_p, **draw(logits))

        return {"renorm + min_p_sampling_from_probs": everything}
    if top_k and top_p < 1:
        return {
            "softmax + top_k_top_p_sampling_from_probs": lambda *x: sampling.top_k_top_p_sampling_from_probs(
                probs(x), top_k, top_p, **draw(x)
            ),
            "top_k_top_p_sampling_from_logits": lambda *x: sampling.top_k_top_p_sampling_from_logits(
                mixed(*x) / temperature, top_k, top_p, **draw(x)
            ),
        }
    if top_k:
        return {
            "softmax + top_k_sampling_from_probs": lambda *x: sampling.top_k_sampling_from_probs(
                probs(x), top_k, **draw(x)
            )
        }
    if top_p < 1:
        return {
            "softmax + top_p_sampling_from_probs": lambda *x: sampling.top_p_sampling_from_probs(
                probs(x), top_p, **draw(x)
            )
        }
    return {
        "softmax + sampling_from_probs": lambda *x: sampling.sampling_from_probs(probs(x), **draw(x)),
        "sampling_from_logits": lambda *x: sampling.sampling_from_logits(mixed(*x) / temperature, **draw(x)),
    }
