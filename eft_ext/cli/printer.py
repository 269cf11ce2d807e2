"""Printing an answer while it is generated, and seeing where it ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, TextStreamer

_KEPT = 8  # tokens


class Printer(TextStreamer):
    """Prints words as they come, without the prompt, and keeps back what may be the start of a stop string.

    Attributes:
        text: what has been printed.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._stops, self._held, self._done = stops, "", False
        self._begun = False
        self._tokens: list[int] = []
        self._sure = 0  # characters of the tokens' text that later ones cannot change
        self.text = ""

    def put(self, value: Tensor) -> None:
        """Called with the prompt, then with tokens as they come.

        TextStreamer decodes each line by itself, and tokenizers that drop the space before a text do it there too.
        """
        if not self._begun:
            self._begun = True
            return
        self._tokens += value.flatten().tolist()
        text = self._decoded(self._tokens)
        line, sure = text.endswith("\n"), text.rfind(" ") + 1
        if line or (text and self._is_chinese_char(ord(text[-1]))):
            sure = len(text)
        piece, self._sure = text[self._sure : sure], max(self._sure, sure)
        # Some tokens stay for those to come to stand behind, if they say by themselves what they say here.
        if line and (kept := self._decoded(self._tokens[-_KEPT:])) and text.endswith(kept):
            self._tokens, self._sure = self._tokens[-_KEPT:], len(kept)
        self.on_finalized_text(piece)

    def end(self) -> None:
        """Called when all tokens have come, or an error ends it: where that is before the prompt nothing is printed."""
        if self._begun:
            self.on_finalized_text(self._decoded(self._tokens)[self._sure :], stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called with each piece of text that later tokens cannot change."""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if not self._done:
            cut = min(found) if found else len(self._held) - (0 if stream_end else self._open())
            self._write(self._held[:cut])
            self._held, self._done = self._held[cut:], bool(found)
        if stream_end:
            sys.stdout.write("\n")
            sys.stdout.flush()

    def _decoded(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, **self.decode_kwargs))

    def _open(self) -> int:
        """Length of the longest end of what is held that begins a stop string."""
        starts = (stop[:n] for stop in self._stops for n in range(len(stop) - 1, 0, -1))
        return max((len(start) for start in starts if self._held.endswith(start)), default=0)

    def _write(self, text: str) -> None:
        text = text if self.text else text.lstrip()
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
