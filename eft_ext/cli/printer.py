"""Printing an answer while it is generated, and seeing where it ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, TextStreamer


class Printer(TextStreamer):
    """Prints words as they come, without the prompt, and keeps back what may be the start of a stop string.

    Attributes:
        text: what has been printed.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._stops, self._held, self._done = stops, "", False
        self.text = ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by TextStreamer with each piece of text that later tokens cannot change."""
        self._held += text if self.text or self._held else text.lstrip()
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if not self._done:
            cut = min(found) if found else len(self._held) - (0 if stream_end else self._open())
            self._write(self._held[:cut])
            self._held, self._done = self._held[cut:], bool(found)
        if stream_end:
            sys.stdout.write("\n")
            sys.stdout.flush()

    def _open(self) -> int:
        """Length of the longest end of what is held that begins a stop string."""
        starts = (stop[:n] for stop in self._stops for n in range(len(stop) - 1, 0, -1))
        return max((len(start) for start in starts if self._held.endswith(start)), default=0)

    def _write(self, text: str) -> None:
        self.text += text
        sys.stdout.write(text)
        sys.stdout.flush()


class EndsAt(StoppingCriteria):
    """Stops where the answer's text holds a stop string.

    Looks at the decoded text, since transformers' own criterion takes the vocabulary apart and fails on
    tokenizers that it does not foresee.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self._tokenizer, self._stops = tokenizer, stops
        self._prompt: int | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if self._prompt is None:
            self._prompt = input_ids.shape[1] - 1
        answers = self._tokenizer.batch_decode(input_ids[:, self._prompt :][:, -32:])
        return torch.tensor([any(stop in text for stop in self._stops) for text in answers], device=input_ids.device)
