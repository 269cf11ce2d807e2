"""Costs of the parts of a generation with drafts, and the speed-up that follows from them.

One thread, and its own CPU time: other load on the machine does not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import common  # noqa: F401
import torch
from torch import Tensor

from eft_ext import EmulatedModel
from eft_ext.decoding import StaticCacheModel
from eft_ext.decoding.capture import traced_forward
from eft_ext.decoding.speculative.draft_length import expected_tokens
from eft_ext.ops import fused_mix, fused_verify

SAMPLED = {"do_sample": True, "top_k": 0, "seed": 1}
EFT = [1.0, 1.0, -1.0]
traced_forward.AFTER = 4  # the figures are of passes that are traced, for which the generations here are too short


def seconds(call: Callable[[], Any], times: int) -> float:
    """Returns the median CPU time of `times` calls."""
    taken = []
    for _ in range(times):
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return median(taken)


def forward_seconds(model: Any, n: int, times: int = 9) -> float:
    """Times one forward pass over n tokens from a static cache of 64, traced as in a generation."""
    static = StaticCacheModel(model, capacity=256)
    static.prefill(torch.arange(5, 69)[None])
    tokens = torch.full((1, n), 7)

    def call() -> None:
        static.forward(tokens)
        static.crop(static.lengths - n)

    for _ in range(20):  # until it is traced
        call()
    return seconds(call, times)


def step_seconds(vocab: int, k: int) -> float:
    """Times one step (k = 0), or the draws of k drafts and their verification."""
    logits = [torch.randn(1, k + 1, vocab) for _ in range(3)]
    if k == 0:
        views = [x[:, 0] for x in logits]
        return seconds(lambda: fused_mix(views, EFT, seed=1, position=0), 51)
    drafts, seeds = torch.zeros(1, k, dtype=torch.int64), torch.ones(1, dtype=torch.int64)

    def call() -> None:
        for i in range(k):
            fused_mix([logits[1][:, i]], [1.0], seed=seeds, position=i)
        fused_verify(drafts, logits[1][:, :k], logits, EFT, seed=seeds, position=0)

    return seconds(call, 51)


@dataclass(frozen=True)
class Costs:
    """Seconds of a pass over n tokens, by n, and of a step or a verification, by k.

    Attributes:
        large, small: of these models; tuned and base are both as the small one.
        step: k = 0 for the ordinary step.
    """

    large: dict[int, float]
    small: dict[int, float]
    step: dict[int, float]

    @staticmethod
    def measured(large: Any, small: Any, drafts: Sequence[int]) -> Costs:
        lengths = (1, *(k + 1 for k in drafts))
        passes = [{n: forward_seconds(model, n) for n in lengths} for model in (large, small)]
        return Costs(*passes, {k: step_seconds(4096, k) for k in (0, *drafts)})

    @property
    def ordinary(self) -> float:
        """A token without drafts."""
        return self.large[1] + 2 * self.small[1] + self.step[0]

    def predicted(self, k: int, acceptance: float) -> float:
        """Returns the speed-up with k drafts a round, E(k) T / T(k)."""
        taken = (k + 1) * self.small[1] + self.large[k + 1] + self.small[k + 1] + self.step[k]
        return expected_tokens(k, acceptance) * self.ordinary / taken

    def milliseconds(self) -> dict[str, dict[int, float]]:
        return {name: {n: 1e3 * t for n, t in each.items()} for name, each in asdict(self).items()}


class Rates:
    """Tokens a second of generations of `new` tokens from one prompt.

    Reading the prompt gives the first token, with drafts and without: it is not counted.
    """

    def __init__(self, model: EmulatedModel, prompt: Tensor, new: int) -> None:
        self._model, self._prompt, self._new = model, prompt, new
        self._options = {"max_new_tokens": new, "return_dict_in_generate": True, **SAMPLED}
        self._first = seconds(lambda: model.generate(prompt, **{**self._options, "max_new_tokens": 1}), 3)

    def measure(self, **options: Any) -> tuple[float, Any]:
        """Returns the rate with these options, and the last output."""
        found: list[Any] = []
        taken = seconds(lambda: found.append(self._model.generate(self._prompt, **self._options, **options)), 1)
        return (self._new - 1) / (taken - self._first), found[-1]
