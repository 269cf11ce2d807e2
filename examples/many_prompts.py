"""Many prompts in a batch that is kept full: results as they come, with a progress bar and own limits.

    python examples/many_prompts.py [FILE.jsonl [LARGE TUNED BASE]]

Each line of the file is {"prompt": ..., "max_new_tokens": ...}. A prompt that ends gives its slot to the next one, so
short answers overtake long ones. Without arguments it asks the shipped models 40 questions. Needs
`pip install '.[hf]'`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import StoppingCriteria

import eft_ext
from eft_ext.demo import model_path
from eft_ext.demo.world import World

EMBEDDED = [str(model_path(name)) for name in ("large-base", "small-tuned", "small-base")]


class Limits(StoppingCriteria):
    """Ends each prompt at its own number of tokens.

    Every row has a copy, which first sees the prompt with one new token. The same prompt has one limit.
    """

    left: int | None = None

    def __init__(self, limits: dict[tuple[int, ...], int]) -> None:
        self.limits = limits

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        left = self.limits[tuple(input_ids[0, :-1].tolist())] if self.left is None else self.left
        self.left = left - 1
        return torch.tensor([self.left <= 0])


def main(file: str | None = None, *names: str) -> None:
    """Prints each answer when it is there, with the number of its prompt."""
    lines = Path(file).read_text(encoding="utf-8").splitlines() if file else []
    questions = [question.prompt for question in World().questions("heldout")[:40]]
    requests = [json.loads(line) for line in lines]
    requests = requests or [{"prompt": text, "max_new_tokens": 40 if i % 4 else 8} for i, text in enumerate(questions)]

    model = eft_ext.EmulatedModel.from_pretrained(*(names or EMBEDDED), quiet=True)
    prompts = [request["prompt"] for request in requests]
    ids = [tuple(row) for row in model.tokenizer(prompts).input_ids]
    limits = [request["max_new_tokens"] for request in requests]
    own = Limits(dict(zip(ids, limits, strict=True)))
    options = {"batch_size": 8, "max_new_tokens": max(limits), "stopping_criteria": [own], "progress": True}
    for number, tokens in model.generate_as_completed(prompts, **options):
        text = model.tokenizer.decode(tokens, skip_special_tokens=True)
        print(f"{number} ({len(tokens)} tokens):{text}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
