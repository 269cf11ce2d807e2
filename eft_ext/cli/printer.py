"""Printing an answer while it is generated, and seeing where it ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, TextStreamer

from eft_ext._seam import added_text, last_tokens


def before_stops(text: str, stops: Sequence[str]) -> int:
    """Length of the text before the first stop string, or before an end that may become one with what follows.

    What is in front stays in front, whatever text follows.
    """
    whole = [at for stop in stops if (at := text.find(stop)) >= 0]
    begun = [len(text) - n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    return min([*whole, *begun, len(text)])


class Printer(TextStreamer):
    """Prints words as they come, without the prompt and without any part of a stop string.

    Args:
        tokenizer: of transformers.
        stops: end the answer, as may an end of it that begins one of them.
        quiet: only keep the text.

    Attributes:
        text: the answer so far, without the space that it begins with.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = (), *, quiet: bool = False) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._stops, self._quiet = stops, quiet
        self._asked = self._begun = False  # the prompt came, an answer's token came
        self._seen = 0  # tokens, the prompt's among them
        self._before: list[int] = []  # what the text of the next tokens depends on
        self._tokens: list[int] = []
        self._sure = 0  # characters of the tokens' text that later ones cannot change
        self._held = ""  # sure, and perhaps a stop string's beginning
        self.text = ""

    def put(self, value: Tensor) -> None:
        """Called with the prompt, then with tokens as they come.

        TextStreamer decodes each line by itself, and tokenizers that drop the space before a text do it there too.
        """
        tokens = value.flatten().tolist()
        self._seen += len(tokens)
        if not self._asked:
            self._asked, self._before = True, last_tokens(self.tokenizer, tokens)
            return
        self._begun = True
        self._tokens += tokens
        text = self._text(self._tokens)
        line, sure = text.endswith("\n"), text.rfind(" ") + 1
        if line or (text and self._is_chinese_char(ord(text[-1]))):
            sure = len(text)
        piece, self._sure = text[self._sure : sure], max(self._sure, sure)
        if line:
            self._before, self._tokens, self._sure = last_tokens(self.tokenizer, self._before + self._tokens), [], 0
        self.on_finalized_text(piece)

    def end(self) -> None:
        """Called when all tokens have come, or an error ends it: where that is before the first nothing is printed."""
        if self._begun:
            self.on_finalized_text(self._text(self._tokens)[self._sure :], stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called with each piece of text that later tokens cannot change."""
        self._held += text
        cut = before_stops(self._held, self._stops)
        text, self._held = self._held[:cut], self._held[cut:]
        text = text if self.text else text.lstrip()
        self.text += text
        if not self._quiet:
            sys.stdout.write(text + "\n" * stream_end)
            sys.stdout.flush()

    def stopped(self, ids: Sequence[int]) -> bool:
        """True where the answer holds a stop string; `ids` has the prompt before it, and more than `put` has seen."""
        text = self._held + self._text(self._tokens + list(ids[self._seen :]))[self._sure :]
        return any(stop in text for stop in self._stops)

    def _text(self, tokens: Sequence[int]) -> str:
        return added_text(self.tokenizer, self._before, tokens)


class EndsAt(StoppingCriteria):
    """Stops where the answer of a `Printer` holds one of its stop strings.

    Looks at the decoded text, since transformers' own criterion takes the vocabulary apart and fails on
    tokenizers that it does not foresee.
    """

    def __init__(self, printer: Printer) -> None:
        self._printer = printer

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.tensor([self._printer.stopped(row) for row in input_ids.tolist()], device=input_ids.device)
