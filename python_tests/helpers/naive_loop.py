"""The loop that engines are compared with: each model's whole forward pass for every token, plain torch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM


def load(folder: str | Path, names: Sequence[str]) -> list[Any]:
    """The models of a checkpoint by their folders, in fp32."""
    return [AutoModelForCausalLM.from_pretrained(f"{folder}/{name}", dtype=torch.float32).eval() for name in names]


@torch.no_grad()
def logits(models: Sequence[Any], ids: Sequence[int]) -> list[Tensor]:
    """Each model's logits at every position, float64 [length, V], V that of the narrowest."""
    found = [model(torch.tensor([list(ids)]), use_cache=False).logits[0].double() for model in models]
    width = min(each.shape[1] for each in found)
    return [each[:, :width] for each in found]


def up_scaled(beta: float) -> Callable[..., Tensor]:
    """large + beta·(tuned − base)."""
    return lambda large, tuned, base: large + beta * (tuned - base)


def greedy(
    models: Sequence[Any], mixture: Callable[..., Tensor], ids: Sequence[int], count: int, ends: Sequence[int] = (0,)
) -> list[int]:
    """The likeliest tokens one after another, up to and with one of `ends`."""
    text, found = list(ids), []
    for _ in range(count):
        token = int(mixture(*(each[-1] for each in logits(models, text))).argmax())
        found.append(token)
        text.append(token)
        if token in ends:
            break
    return found
