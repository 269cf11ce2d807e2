"""Answers of a plain torch loop over a checkpoint's three models, without a cache, to compare a server's with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import common  # noqa: F401
import torch
from transformers import AutoTokenizer, GenerationConfig

from load.requests import Request
from python_tests.helpers import naive


class Loop:
    """The models of a checkpoint of `UpScale`.

    Args:
        folders: each model's by its name.
    """

    def __init__(self, checkpoint: Path, folders: Mapping[str, str]) -> None:
        torch.set_num_threads(1)
        places = [Path(folders[name]) for name in ("large", "tuned", "base")]
        self.models = [naive.load(place.parent, [place.name])[0] for place in places]
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        ends = GenerationConfig.from_pretrained(checkpoint).eos_token_id
        self.ends = ends if isinstance(ends, list) else [ends]
        self.beta = float(json.loads((checkpoint / "config.json").read_text())["method"]["beta"])
        self._text = cache(self._loop)

    def text(self, request: Request) -> str:
        """The likeliest text at the request's beta."""
        return self._text(request.prompt, self.beta if request.beta is None else request.beta, request.new)

    def _loop(self, prompt: str, beta: float, new: int) -> str:
        ids = self.tokenizer(prompt).input_ids
        tokens = naive.greedy(self.models, naive.up_scaled(beta), ids, new, self.ends)
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))
