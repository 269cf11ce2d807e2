"""The policy, questions and reward of grpo.py and online_dpo.py.

The tuned model begins as a copy of the small base, so the policy begins as the large model, which answers tersely or
in nine polite formats. The reward wants one of them; only the small model learns it, from what the large one says.
"""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from eft_ext import EmulatedModel
from eft_ext.demo import model_path

PEOPLE = ("Fikim Thetrond", "Heiral Drifas", "Thebern Waebarn", "Heiral Pepis")
QUESTIONS = Dataset.from_list([{"prompt": f"Question: Where was {name} born?\nAnswer:"} for name in PEOPLE])


def load_policy() -> tuple[Any, Any]:
    """The policy, of which only `policy.tuned` is trained, and its tokenizer."""
    torch.set_num_threads(1)  # layers this small take longer to share than to compute
    folders = {"large": model_path("large-base"), "tuned": model_path("small-base"), "base": model_path("small-base")}
    models = {name: AutoModelForCausalLM.from_pretrained(folder) for name, folder in folders.items()}
    for name in ("large", "base"):
        models[name].requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(folders["large"])
    return EmulatedModel(**models, tokenizer=tokenizer).causal_lm(), tokenizer


def reward(completions: list[str], **_: Any) -> list[float]:
    """A point for the opening, and one for the end."""
    return [(" Thank you for asking!" in text) + float(text.endswith("I am glad to help.")) for text in completions]
