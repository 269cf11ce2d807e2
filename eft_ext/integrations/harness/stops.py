"""The criterion by which a row of the harness ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria


class StopText(StoppingCriteria):
    """Ends a row as soon as its new text holds one of some strings.

    The strings of transformers' own criterion may begin in the prompt. The harness looks at what is new alone.

    Args:
        tokenizer: of the text, special tokens included.
        stops: the strings; empty ones are left out.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = [stop for stop in stops if stop]
        longest = max((len(tokenizer.encode(s, add_special_tokens=False)) for s in self._stops), default=0)
        self._window = longest + 2  # another tokenization may need more tokens; then the whole text is cut later
        self._start: int | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if self._start is None:
            self._start = input_ids.shape[1] - 1
        rows = input_ids[:, self._start :].tolist()
        found = [self._holds(row[-self._window :]) and self._holds(row) for row in rows]
        return torch.tensor(found, device=input_ids.device)

    def _holds(self, tokens: list[int]) -> bool:
        text = self._tokenizer.decode(tokens)
        return any(stop in text for stop in self._stops)
